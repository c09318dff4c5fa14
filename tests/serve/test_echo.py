"""Log-probabilities of the prompt's own tokens over HTTP, as evaluation harnesses ask for them, against the training's forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.model import llama

NAME = "tiny"
HARNESS = {"model": NAME, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "extra_body": {"echo": True}}
TEXT = "Once upon a time, ünd"


@pytest.fixture(scope="module")
def forward(architecture, params):
    @jax.jit
    def run(tokens):
        hidden = llama.forward(architecture, params, tokens, jnp.ones_like(tokens), jnp.arange(tokens.shape[1])[None])
        return jax.nn.log_softmax(llama.logits(params, hidden)[0])

    def rows(ids):
        tokens = np.zeros((1, 64), np.int32)
        tokens[0, : len(ids)] = ids
        return np.asarray(run(tokens))[: len(ids)]

    return rows


@pytest.fixture(scope="module")
def prompts(architecture):
    draw = np.random.default_rng(0)
    context = draw.integers(3, architecture.vocab_size, 30).tolist()
    return [[*context, *draw.integers(3, architecture.vocab_size, more).tolist()] for more in (1, 9, 3)] + [context[:5], [7]]


def test_a_harness_reads_what_the_forward_pass_gives(client, forward, prompts):
    answer = client.completions.create(prompt=prompts, **HARNESS)
    for ids, choice in zip(prompts, answer.choices, strict=True):
        rows, logprobs = forward(ids), choice.logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == len(ids) + 1
        assert logprobs.token_logprobs[0] is logprobs.top_logprobs[0] is None
        found = logprobs.token_logprobs[1:]
        np.testing.assert_allclose(found[:-1], rows[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
        assert found[-1] == pytest.approx(rows[-1].max(), abs=1e-4)
        likeliest = [max(top.values()) for top in logprobs.top_logprobs[1:]]
        np.testing.assert_allclose(likeliest, rows.max(axis=1), atol=1e-4)
        greedy = [one == most for one, most in zip(found, likeliest, strict=True)]
        assert greedy == [*(rows.argmax(axis=1)[:-1] == ids[1:]).tolist(), True]
    assert answer.usage.prompt_tokens == sum(map(len, prompts))
