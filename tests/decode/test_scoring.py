"""Scores of given tokens against the full forward pass: pieces, shared beginnings, the cache's sizes and the company must not show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding import batch_of

from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.decode.tuning import CPU, PLAIN
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture

TINY = Architecture(
    vocab_size=83, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, max_positions=512,
    tie_embeddings=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    # Larger than the usual 0.02, so that the choices of a random model differ from place to place.
    return jax.tree.map(lambda leaf: leaf if leaf.ndim == 2 and leaf.shape[0] == 2 else 10 * leaf, llama.init(TINY, jax.random.key(0)))


@jax.jit
def padded(params, tokens):
    hidden = llama.forward(TINY, params, tokens, jnp.ones_like(tokens), jnp.arange(tokens.shape[1])[None])
    return jax.nn.log_softmax(llama.logits(params, hidden)[0, :, :83])


def expected(params, ids, start):
    """The log-probabilities of each place from `start` on over the vocabulary, by the training's forward pass."""
    tokens = np.zeros((1, 320), np.int32)
    tokens[0, : len(ids)] = ids
    return np.asarray(padded(params, tokens))[start - 1 : len(ids) - 1]


def some(*lengths):
    draw = np.random.default_rng(0)
    return [draw.integers(0, TINY.vocab_size, length).tolist() for length in lengths]


def scoring_of(params, tuning=CPU):
    batch = batch_of(TINY, params, tuning)
    return Scoring(batch._program, batch._weights)


ROWS = [
    *[([*context, *rest], len(context)) for context in some(40, 9) for rest in some(1, 3, 12)],  # several continuations of a context
    *[(ids, 1) for ids in some(2, 33, 300)],  # all but the first, in every kind of piece
    (some(40)[0], 1),  # begins as others do, but asks for what they don't
    (some(40)[0], 40),  # nothing
]


@pytest.mark.parametrize("tuning", [CPU, PLAIN], ids=["CPU", "plain"])
def test_scores_are_those_of_the_full_forward_pass(params, tuning):
    scores = scoring_of(params, tuning).score(ROWS, top=3)
    for (ids, start), score in zip(ROWS, scores, strict=True):
        rows = expected(params, ids, start)
        assert [token.id for token in score.tokens] == ids[start:]
        np.testing.assert_allclose(score.logprobs, rows[np.arange(len(rows)), ids[start:]], atol=1e-4)
        assert score.greedy == (rows.argmax(axis=1) == ids[start:]).tolist()
        for token, row in zip(score.tokens, rows, strict=True):
            np.testing.assert_allclose([row[id] for id, _ in token.top], [logprob for _, logprob in token.top], atol=1e-4)
            assert [id for id, _ in token.top] == np.argsort(-row)[:3].tolist()
