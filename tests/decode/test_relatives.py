"""The batch on relatives of LLaMA: windows, layers without RoPE, biases and QK-norm over the cache, RoPE scaled by the text's length."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding import batch_of

from alpaca_jax.model import llama, rope
from alpaca_jax.model.architecture import Architecture, RopeScaling

TINY = Architecture(
    vocab_size=83, hidden_size=32, intermediate_size=48, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, max_positions=512
)
RELATIVES = {
    "llama": dataclasses.replace(TINY, qkv_bias=True, out_bias=True, mlp_bias=True),
    "mistral": dataclasses.replace(TINY, family="mistral", sliding_window=7),
    "qwen3": dataclasses.replace(TINY, family="qwen3", qk_norm=True, qkv_bias=True, out_bias=True, sliding_window=40, sliding_layers=(1,)),
    "smollm3": dataclasses.replace(
        TINY,
        family="smollm3",
        nope_layers=(0, 2),
        sliding_window=9,
        sliding_layers=(0,),
        rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_positions=16),
    ),
}


def drawn(architecture):
    """Weights large enough that a random model's choices differ from place to place."""
    random = np.random.default_rng(0)
    params = llama.init(architecture, jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf + random.normal(0, 0.25, leaf.shape).astype(np.float32), params)


def some_prompts(*lengths):
    draw = np.random.default_rng(1)
    return [draw.integers(0, TINY.vocab_size, length).tolist() for length in lengths]


@pytest.mark.parametrize("family", RELATIVES)
def test_greedy_equals_the_full_forward_pass_beyond_the_window(family):
    architecture = RELATIVES[family]
    params = drawn(architecture)

    @jax.jit
    def logprobs(tokens):
        hidden = llama.forward(architecture, params, tokens, jnp.ones_like(tokens), jnp.arange(tokens.shape[1])[None])
        return jax.nn.log_softmax(llama.logits(params, hidden)[0])

    prompts = some_prompts(3, 45, 130)  # pieces of several sizes, caches of two
    answers = batch_of(architecture, params, slots=3).generate(prompts, 12)
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = np.zeros((1, 160), np.int32)
        ids = prompt + answer.ids
        tokens[0, : len(ids)] = ids
        expected = np.asarray(logprobs(tokens))[len(prompt) - 1 : len(ids) - 1]
        assert answer.ids == expected.argmax(-1).tolist()
        np.testing.assert_allclose(answer.logprobs, expected[np.arange(12), answer.ids], atol=3e-4)


def test_a_shared_beginning_is_taken_over_only_where_it_is_rotated_alike(monkeypatch):
    scaling = RopeScaling(kind="dynamic", factor=4.0, original_max_positions=16)
    architecture = dataclasses.replace(TINY, rope_theta=100.0, rope_scaling=scaling)
    params = drawn(architecture)
    (start,) = some_prompts(40)
    prompts = [[*start, 1, 2], [*start[:30], 3], [*start, 4, 5, 6, 7, 8, 9]]
    alone = [batch_of(architecture, params).generate([prompt], 8)[0].logprobs for prompt in prompts]
    together = lambda: [one.logprobs for one in batch_of(architecture, params, slots=3).generate(prompts, 8)]  # noqa: E731
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=3e-4), together(), alone)
    monkeypatch.setattr(rope, "alike", lambda *lengths: True)
    assert max(np.abs(np.subtract(one, other)).max() for one, other in zip(together(), alone, strict=True)) > 1e-2
