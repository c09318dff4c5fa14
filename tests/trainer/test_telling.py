"""Draws and most probable tokens of a teacher, in chunks, against its whole distribution."""

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.trainer import telling
from alpaca_jax.trainer.signal import Exact

B, T, D, V, ROWS = 2, 40, 3, 11, 12


def teacher():
    keys = jax.random.split(jax.random.key(0), 2)
    hidden, head = jax.random.normal(keys[0], (B, 1, D)), jax.random.normal(keys[1], (ROWS, D))
    scores = np.asarray(hidden[:, 0] @ head[:V].T, np.float64) / 0.7
    log_probs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return Exact((jnp.broadcast_to(hidden, (B, T, D)),), (head,)), log_probs  # each place of a row has the same distribution


def test_draws_are_from_the_distribution_and_never_of_a_padded_row():
    signal, log_probs = teacher()
    ids, entropy, top = telling.drawn(signal, jax.random.key(1), 200, 0.7, V)
    assert ids.shape == (B, T, 200) and int(ids.max()) < V
    shares = np.stack([np.bincount(np.asarray(row).ravel(), minlength=V) for row in ids]) / (T * 200)
    np.testing.assert_allclose(shares, np.exp(log_probs), atol=4 * np.sqrt(0.25 / (T * 200)))
    np.testing.assert_allclose(entropy, np.broadcast_to(-(np.exp(log_probs) * log_probs).sum(-1)[:, None], (B, T)), rtol=1e-5)
    assert (np.asarray(top) == log_probs.argmax(-1)[:, None]).all()
    assert not np.array_equal(ids[:, 0], ids[:, -1])  # chunks have other keys


def test_the_most_probable_tokens_come_first():
    signal, log_probs = teacher()
    ids, found = telling.best(signal, 4, 0.7, V)
    order = np.argsort(-log_probs, axis=-1)[:, None, :4]
    np.testing.assert_array_equal(ids, np.broadcast_to(order, (B, T, 4)))
    np.testing.assert_allclose(found, np.broadcast_to(np.sort(log_probs)[:, None, :-5:-1], (B, T, 4)), rtol=1e-5)
