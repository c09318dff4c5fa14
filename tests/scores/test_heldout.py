"""The held-out loss is the token-weighted mean over all examples, however they are packed."""

import math

import jax
import numpy as np
import pytest
from decoding import layout

from alpaca_jax.data.example import Example, Examples
from alpaca_jax.data.pack import collate
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.scores.heldout import Scorer, Spread
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives.sft import response_loss

TINY = Architecture(vocab_size=96, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8)
LENGTHS = [5, 9, 3, 14, 7, 2, 16]


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: llama.init(TINY, key))(jax.random.key(0))


def examples(lengths):
    random = np.random.default_rng(0)
    return [Example.answering(random.integers(0, 96, length).astype(np.int32), max(1, length // 3)) for length in lengths]


@pytest.mark.parametrize(
    ("rows", "length", "sizes"), [(1, 16, {}), (4, 32, {}), (1, 16, {"data": 2, "tensor": 2}), (3, 32, {"data": 2, "fsdp": 2})]
)
def test_loss_is_the_mean_over_the_tokens_of_all_examples(params, rows, length, sizes):
    made = examples(LENGTHS)
    place = layout(**sizes)
    placed = jax.device_put(params, place.tree(llama.specs(TINY), "weights"))
    score = Scorer(TINY, Examples.of(made), rows, length, place).score(placed)
    loss = jax.jit(lambda params, batch: response_loss(Forward(TINY), params, batch))
    alone = [loss(params, collate([example], 1, 16)) for example in made]
    total, tokens = (sum(float(part[i]) for part in alone) for i in (0, 1))
    assert score.loss == pytest.approx(total / tokens, rel=1e-5)
    assert score.tokens == tokens == sum(int(example.learnt.sum()) for example in made)
    assert score.examples == 7
    assert score.perplexity == pytest.approx(math.exp(score.loss))


def test_progress_hears_of_every_batch(params):
    heard = []
    scorer = Scorer(TINY, Examples.of(examples([16, 16, 16])), 1, 16, layout())
    scorer.score(params, heard.append)
    assert heard == [1, 2, 3]


def test_no_example_gives_no_number(params):
    assert math.isnan(Scorer(TINY, Examples.of([]), 1, 16, layout()).score(params).loss)


def test_the_spread_is_over_examples_in_their_order(params):
    made = examples(LENGTHS)
    score = Scorer(TINY, Examples.of(made), 2, 16, layout()).score(params)
    loss = jax.jit(lambda params, batch: response_loss(Forward(TINY), params, batch))
    alone = np.array([[float(part) for part in loss(params, collate([example], 1, 16))] for example in made])
    np.testing.assert_allclose(score.each.losses, alone[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(score.each.tokens, alone[:, 1])
    assert score.loss == pytest.approx(score.each.losses.sum() / score.each.tokens.sum(), rel=1e-6)
    # Two examples of one token each: half their difference.
    assert Spread(np.array([1.0, 3.0]), np.ones(2)).stderr == pytest.approx(1.0)
    assert Spread(np.array([1.0]), np.ones(1)).stderr is None
