"""Draws against the distribution they are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.decode.sampling import BLOCK, Draw, sample

DRAWS = 20_000


def nucleus(logits, temperature, top_p):
    """The reference, by a sort: probabilities of the smallest set of likeliest tokens that holds `top_p`."""
    shares = np.asarray(jax.nn.softmax(jnp.array(logits, jnp.float32) / temperature), np.float64)
    order = np.argsort(-shares, kind="stable")
    before = np.cumsum(shares[order]) - shares[order]
    kept = np.zeros_like(shares)
    kept[order[before < top_p]] = shares[order[before < top_p]]
    return kept / kept.sum()


def draw_many(logits, temperature, top_p, count=DRAWS):
    rows = jnp.broadcast_to(jnp.array(logits, jnp.float32), (count, len(logits)))
    temperatures, shares = jnp.full(count, temperature, jnp.float32), jnp.full(count, top_p, jnp.float32)
    draw = Draw(temperatures, shares, jnp.arange(count, dtype=jnp.uint32), jnp.full(count, 7, jnp.int32))
    return np.asarray(jax.jit(sample)(rows, draw)[0])


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.9), (0.7, 0.5), (1.5, 0.95), (1.0, 0.05)])
def test_draws_follow_the_nucleus(temperature, top_p):
    logits = np.random.default_rng(0).normal(0, 2, 600)  # not a multiple of the block
    expected = nucleus(logits, temperature, top_p)
    counts = np.bincount(draw_many(logits, temperature, top_p), minlength=600)
    assert counts[expected == 0].sum() == 0
    # Pearson's statistic over the tokens one expects to see; its mean is their number, its deviation sqrt(2n).
    seen = expected * DRAWS > 5
    statistic = np.sum((counts[seen] - expected[seen] * DRAWS) ** 2 / (expected[seen] * DRAWS))
    assert statistic < seen.sum() + 4 * np.sqrt(2 * seen.sum())


def test_greedy_takes_the_first_of_the_likeliest():
    assert set(draw_many([0.0, 3.0, 1.0, 3.0], 0.0, 0.9, count=8)) == {1}


def test_a_certain_token_and_an_empty_nucleus_are_drawn():
    assert set(draw_many([-1e30, 0.0, -1e30], 1.0, 0.9, count=50)) == {1}
    assert set(draw_many([0.0, 0.5, 0.1], 1.0, 0.0, count=50)) == {1}


def test_the_nucleus_ends_with_the_token_that_completes_the_share():
    halves = np.float32(np.log(0.5))
    assert np.exp(halves) == 0.5  # shares of exactly 1/2, 1/4, 1/4
    assert set(draw_many([0.0, halves, halves], 1.0, 0.5, count=200)) == {0}


def test_rows_keep_their_own_options():
    logits = jnp.array([[0.0, 1.0, 0.9], [0.0, 1.0, 0.9]])
    options = jnp.array([0.0, 5.0]), jnp.array([1.0, 1.0])
    one = jax.jit(lambda n: sample(logits, Draw(*options, jnp.full(2, n, jnp.uint32), jnp.zeros(2, jnp.int32)))[0])
    ids = np.array([one(n) for n in range(30)])
    assert set(ids[:, 0]) == {1}
    assert set(ids[:, 1]) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_log_probabilities_are_of_temperature_one(temperature):
    logits = jnp.array(np.random.default_rng(0).normal(0, 3, (4, BLOCK + 44)), jnp.float32)
    full = jnp.full(4, temperature, jnp.float32), jnp.full(4, 0.8, jnp.float32), jnp.arange(4, dtype=jnp.uint32), jnp.zeros(4, jnp.int32)
    ids, logprobs = jax.jit(sample)(logits, Draw(*full))
    np.testing.assert_allclose(logprobs, jax.nn.log_softmax(logits)[jnp.arange(4), ids], atol=1e-5)
    if temperature == 0:
        assert ids.tolist() == jnp.argmax(logits, axis=1).tolist()
