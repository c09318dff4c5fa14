"""A batch against the full forward pass: what is cached, bucketed, shared and moved must not show."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding import batch_of

from alpaca_jax.decode.batch import SHARED, Batch, rounded_up
from alpaca_jax.decode.generation import Options
from alpaca_jax.decode.tuning import CPU, PLAIN
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture

TINY = Architecture(
    vocab_size=83,
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=512,
    tie_embeddings=True,
)


@pytest.fixture(scope="module")
def params():
    # Larger than the usual 0.02, so that the choices of a random model differ from place to place.
    return jax.tree.map(lambda leaf: leaf if leaf.ndim == 2 and leaf.shape[0] == 3 else 10 * leaf, llama.init(TINY, jax.random.key(0)))


@jax.jit
def padded_logits(params, tokens):
    hidden = llama.forward(TINY, params, tokens, jnp.ones_like(tokens), jnp.arange(tokens.shape[1])[None])
    return llama.logits(params, hidden)[0]


def full_logits(params, ids):
    """Causal: what pads the end to one of a few lengths doesn't reach the logits before it."""
    size = 64 if len(ids) <= 64 else 320
    tokens = np.zeros((1, size), np.int32)
    tokens[0, : len(ids)] = ids
    return np.asarray(padded_logits(params, tokens))[: len(ids)]


def greedy(params, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(full_logits(params, ids)[-1].argmax()))
    return ids[len(prompt) :]


def some_prompts(*lengths):
    draw = np.random.default_rng(0)
    return [draw.integers(0, TINY.vocab_size, length).tolist() for length in lengths]


@pytest.mark.parametrize("tuning", [CPU, PLAIN], ids=["CPU", "plain"])
def test_ragged_greedy_equals_the_full_forward_pass(params, tuning):
    prompts = some_prompts(1, 5, 31, 33, 34, 70)
    answers = batch_of(TINY, params, tuning, slots=4).generate(prompts, 6)
    assert [answer.ids for answer in answers] == [greedy(params, prompt, 6) for prompt in prompts]
    assert all(answer.finish_reason == "length" for answer in answers)


def test_logprobs_are_those_of_the_full_forward_pass(params):
    (prompt,) = some_prompts(12)
    (answer,) = batch_of(TINY, params).generate([prompt], 8, temperature=1.0, seed=3)
    expected = jax.nn.log_softmax(full_logits(params, prompt + answer.ids))[len(prompt) - 1 : -1]
    np.testing.assert_allclose(answer.logprobs, np.asarray(expected)[np.arange(8), answer.ids], atol=2e-4)


@pytest.mark.parametrize("tuning", [CPU, PLAIN], ids=["CPU", "plain"])
def test_long_prompts_and_growing_caches(params, tuning):
    prompts = some_prompts(300, 120, 3)
    answers = batch_of(TINY, params, tuning, slots=3).generate(prompts, 12)
    assert [answer.ids for answer in answers] == [greedy(params, prompt, 12) for prompt in prompts]


def test_sequences_enter_and_leave_at_any_step(params):
    prompts = some_prompts(9, 20, 4, 15, 6)
    expected = [greedy(params, prompt, 7) for prompt in prompts]
    batch = batch_of(TINY, params, slots=4)
    running = [batch.admit(prompt, Options(7)) for prompt in prompts[:3]]
    batch.step()
    batch.step()
    batch.release(running.pop(0))
    running += [batch.admit(prompt, Options(7)) for prompt in prompts[3:]]
    while batch.step():
        pass
    assert [[token.id for token in one.tokens] for one in running] == expected[1:]
    assert batch.free == 4


def test_a_shared_beginning_is_read_once_and_changes_nothing(params):
    (start,) = some_prompts(40)
    prompts = [[*start, 1, 2], [*start, 3], [*start[:20], 4], [*start, 1, 2]]
    answers = batch_of(TINY, params, slots=4).generate(prompts, 5)
    assert [answer.ids for answer in answers] == [greedy(params, prompt, 5) for prompt in prompts]


def test_a_piece_that_starts_behind_a_copy_fits_at_the_end_of_the_cache(params):
    start, rest = some_prompts(108, 17)
    prompts = [[*start, 1, 2], [*start, *rest]]  # 108 + a piece of 32 is more than the 128 places that the prompts need
    answers = batch_of(TINY, params, slots=2).generate(prompts, 3)
    assert [answer.ids for answer in answers] == [greedy(params, prompt, 3) for prompt in prompts]


@pytest.mark.parametrize(("same", "copies"), [(SHARED - 1, 0), (SHARED + 1, 1)])
def test_a_beginning_too_short_to_be_worth_a_copy_is_read_again(params, monkeypatch, same, copies):
    copied, copy = [], Batch._copy
    monkeypatch.setattr(Batch, "_copy", lambda batch, *rows: (copied.append(rows), copy(batch, *rows)))
    (start,) = some_prompts(same)
    batch = batch_of(TINY, params, slots=2)
    for last in ([1, 2, 3], [4, 5]):
        batch.admit([*start, *last], Options(4))
    batch.step()
    assert len(copied) == copies


def test_the_cache_shrinks_once_half_of_it_is_enough(params):
    batch = batch_of(TINY, params, slots=6)
    running = [batch.admit(prompt, Options(30)) for prompt in some_prompts(4, 5, 6, 7, 8, 9)]
    rows = []
    for leaving in (0, 2, 1, 1):
        for _ in range(leaving):
            batch.release(running.pop())
        batch.step()
        rows.append(batch._rows)
    assert rows == [6, 6, 6, 2]


def test_sampling_depends_on_the_prompt_and_seed_alone(params):
    prompts = some_prompts(9, 20, 4, 15)
    batch = batch_of(TINY, params, slots=4)
    together = batch.generate(prompts, 8, temperature=1.0, top_p=0.9, seed=[5, 6, 7, 8])
    alone = batch_of(TINY, params, slots=1).generate(prompts, 8, temperature=1.0, top_p=0.9, seed=[5, 6, 7, 8])
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert together[0].ids != batch.generate(prompts[:1], 8, temperature=1.0, top_p=0.9, seed=9)[0].ids
    high = batch.generate(prompts, 8, temperature=1.0, top_p=0.9, seed=[2**31 + seed for seed in (5, 6, 7, 8)])
    assert [one.ids for one in high] != [one.ids for one in together]


def test_a_stop_id_ends_a_sequence_and_is_not_in_it(params):
    (prompt,) = some_prompts(9)
    expected = greedy(params, prompt, 8)
    (answer,) = batch_of(TINY, params).generate([prompt], 8, stop_ids=[expected[4]])
    assert answer.ids == expected[: expected.index(expected[4])]
    assert answer.finish_reason == "stop"


def test_max_length_ends_a_sequence_and_refuses_a_prompt(params):
    batch = batch_of(TINY, params, max_length=12)
    prompts = some_prompts(9, 12)
    assert len(batch.generate(prompts[:1], 50)[0].ids) == 3
    with pytest.raises(ValueError, match="a prompt of 12 tokens: there is room for 1 to 11"):
        batch.admit(prompts[1], Options(1))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_several_steps_ahead_give_the_same_tokens(params, temperature):
    prompts = some_prompts(9, 20, 4)
    four, one = (batch_of(TINY, params, replace(CPU, stride=stride)) for stride in (4, 1))
    assert four.generate(prompts, 10, temperature, seed=[1, 2, 3]) == one.generate(prompts, 10, temperature, seed=[1, 2, 3])


def test_an_untied_padded_vocabulary(params):
    untied = {**params, "embed": {"weight": jnp.pad(params["embed"]["weight"], ((0, 13), (0, 0)), constant_values=9.0)}}
    untied["head"] = untied["embed"]
    prompts = some_prompts(9, 20)
    assert batch_of(TINY, untied).generate(prompts, 5) == batch_of(TINY, params).generate(prompts, 5)


def test_sizes_are_few_and_close():
    assert [rounded_up(need, 1) for need in (1, 2, 3, 9)] == [1, 2, 4, 16]
    assert [rounded_up(need, 128, halves=True) for need in (1, 129, 193, 257, 400)] == [128, 192, 256, 384, 512]
