"""Scores of given tokens against the full forward pass: pieces, shared beginnings, the cache's sizes and the company must not show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding import batch_of, program

from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import SHARED
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.decode.tuning import CPU, PLAIN
from alpaca_jax.errors import UserError
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture

TINY = Architecture(
    vocab_size=83, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, max_positions=512,
    tie_embeddings=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    # Larger than the usual 0.02, so that the choices of a random model differ from place to place.
    return jax.tree.map(lambda leaf: leaf if leaf.ndim == 2 and leaf.shape[0] == 2 else 5 * leaf, llama.init(TINY, jax.random.key(0)))


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


def scoring_of(params, tuning=CPU, **sizes):
    batch = batch_of(TINY, params, tuning)
    if not sizes:
        return Scoring(batch._program, batch._weights)
    decoding = program(TINY, tuning, **sizes)
    return Scoring(decoding, weights.of_run(jax.device_put(params, decoding.layout.tree(llama.specs(TINY), "weights"))))


CONTEXT, LONG, *ENDS = some(40, 300, 1, 3, 12)
ROWS = [
    *[([*CONTEXT, *end], len(CONTEXT)) for end in ENDS],  # several continuations of a context
    ([*CONTEXT[:20], *ENDS[2]], 20),  # of a part of it
    (LONG, 1),  # all but the first, in a long piece
    (CONTEXT, 1),  # begins as others do, but asks for what they don't
    (CONTEXT[:2], 1),
    (CONTEXT, 40),  # nothing
]


def check(params, scores, top):
    for (ids, start), score in zip(ROWS, scores, strict=True):
        rows = expected(params, ids, start)
        assert [token.id for token in score.tokens] == ids[start:]
        np.testing.assert_allclose(score.logprobs, rows[np.arange(len(rows)), ids[start:]], atol=1e-4)
        assert score.logprob == pytest.approx(sum(score.logprobs))
        assert score.greedy == (rows.argmax(axis=1) == ids[start:]).tolist()
        assert score.is_greedy == all(score.greedy)
        for token, row in zip(score.tokens, rows, strict=True):
            np.testing.assert_allclose([row[id] for id, _ in token.top], [logprob for _, logprob in token.top], atol=1e-4)
            assert [id for id, _ in token.top] == np.argsort(-row)[:top].tolist()


def test_scores_are_those_of_the_full_forward_pass(params):
    scoring = scoring_of(params)
    check(params, scoring.score(ROWS, top=3), top=3)
    check(params, scoring.score(ROWS[::-1])[::-1], top=0)  # in a cache that has read them, in another order


def test_stacked_weights_on_a_mesh_and_a_padded_vocabulary(params):
    wide = jnp.pad(params["embed"]["weight"], ((0, 13), (0, 0)), constant_values=9.0)
    check(params, scoring_of({**params, "embed": {"weight": wide}}, PLAIN, fsdp=2).score(ROWS, top=1), top=1)


def test_a_row_alone_has_the_scores_that_it_has_among_others(params):
    scoring = scoring_of(params)
    together = scoring.score(ROWS)
    for row, score in zip(ROWS, together, strict=True):
        scoring._held = [None] * len(scoring._held)  # nothing to take over
        np.testing.assert_allclose(scoring.score([row])[0].logprobs, score.logprobs, atol=1e-5)


def test_what_rows_begin_with_is_read_once(params, monkeypatch):
    read = []

    def count(self, piece, chosen, original=Scoring._read):
        before = [reading.cached for reading in chosen.values()]
        original(self, piece, chosen)
        read.append(sum(reading.cached for reading in chosen.values()) - sum(before))

    monkeypatch.setattr(Scoring, "_read", count)
    scoring = scoring_of(params)
    first = scoring.score(ROWS[:3])
    assert sum(read) <= 40 + 1 + 3 + 12 + 2 * SHARED  # who needs few more tokens doesn't wait for them
    read.clear()
    for again, score in zip(scoring.score(ROWS[:3]), first, strict=True):
        assert again.logprobs == pytest.approx(score.logprobs, abs=1e-5)
    assert sum(read) <= 3 * 2  # also in a later call


def test_rows_enter_and_leave_at_any_step(params):
    scoring = scoring_of(params)
    left, stayed = (scoring.reading(ids, 1, beyond=True) for ids in (LONG, CONTEXT))
    scoring.admit(left)
    scoring.step()
    scoring.admit(stayed)
    scoring.step()
    scoring.release(left)
    while scoring.busy:
        scoring.step()
    assert stayed.done and not left.done
    rows = expected(params, [*CONTEXT, 0], 1)
    np.testing.assert_allclose(stayed.scored.logprobs, rows[np.arange(39), CONTEXT[1:]], atol=1e-4)
    assert stayed.scored.following.id == rows[-1].argmax()


def test_what_cannot_be_scored(params):
    scoring = scoring_of(params)
    with pytest.raises(ValueError, match="a row of 513 tokens, scored from token 1 on: there is room for 512, and one goes before"):
        scoring.score([([1] * 513, 1)])
    with pytest.raises(ValueError, match="a row of 3 tokens, scored from token 0 on"):
        scoring.score([([1, 2, 3], 0)])
    damaged = {**params, "norm": {"scale": params["norm"]["scale"] * np.float32("nan")}}
    with pytest.raises(UserError, match="the model's log-probabilities are not numbers: its weights are damaged"):
        scoring_of(damaged).score([(CONTEXT, 1)])
