"""Pairs in packed rows: each alone is what it is among others, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.data.example import Example, Group
from alpaca_jax.data.pack import lay
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer import preferences
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import preference, reward
from alpaca_jax.trainer.objectives.preference import PairLoss

TINY = Architecture(vocab_size=61, hidden_size=16, intermediate_size=40, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8)
FORWARD = Forward(TINY)
DPO = PairLoss(lambda c, r: preferences.sigmoid(c, r, 0.1), lambda each: 0.1 * each.gain, needs_reference=True, likelihood=0.2)
ORPO = PairLoss(lambda c, r: 0.1 * preferences.odds_ratio(c, r), lambda each: each.mean, False, likelihood=1.0, prompts=True)
OBJECTIVES = {
    "dpo": preference.pairwise(FORWARD, DPO),
    "orpo": preference.pairwise(FORWARD, ORPO),
    "kto": preference.unpaired(FORWARD, 0.1, 1.0, 1.25),
}


def pairs():
    """Five pairs of one prompt each, whose answers and prompts differ in length."""
    random = np.random.default_rng(0)

    def side(prompt, tokens, desired):
        ids = np.concatenate([prompt, random.integers(1, 61, tokens)]).astype(np.int32)
        facts = {"real": 1.0, "reference": -random.uniform(3, 7) * tokens, "desired": desired}
        example = Example.answering(ids, len(prompt))
        return Example(example.ids, example.learnt, facts=facts)

    prompts = [random.integers(1, 61, n) for n in (3, 1, 6, 2, 4)]
    sizes = [(2, 5), (4, 1), (3, 3), (6, 2), (1, 1)]
    return [Group((side(p, a, n % 2), side(p, b, n % 2))) for n, (p, (a, b)) in enumerate(zip(prompts, sizes, strict=True))]


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: llama.init(TINY, key))(jax.random.key(0))


@functools.cache
def compiled(name):
    terms = OBJECTIVES[name].terms
    return jax.jit(jax.value_and_grad(lambda params, batch: ((t := terms(params, {}, batch)).total, t), has_aux=True))


def summed(name, params, batches):
    found = [compiled(name)(params, batch) for batch in batches]
    return functools.reduce(lambda one, other: jax.tree.map(jnp.add, one, other), found)


def batch(places, rows=3, slots=6):
    return lay(places, rows, 48, slots)


LAID = {
    "another order": lambda p: [[p[4], p[2]], [p[0], p[3]], [p[1]]],
    "rows without a pair": lambda p: [[], [p[3], p[1]], [p[2], p[4], p[0]]],
}


@pytest.mark.parametrize("name", ["dpo", pytest.param("orpo", marks=pytest.mark.prove)])
def test_each_pair_alone_is_the_pairs_packed(name, params):
    items = pairs()
    alone = summed(name, params, [batch([[item]]) for item in items])
    for laid in LAID.values():
        packed = summed(name, params, [batch(laid(items))])
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5), packed, alone)
    assert float(alone[0][1].weight) == len(items)


def test_the_order_of_single_answers_changes_nothing(params):
    items = pairs()
    one, other = (summed("kto", params, [batch(laid(items))]) for laid in LAID.values())
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5), one, other)
    (_, terms), _ = one
    assert float(terms.extra["kl"][0]) > 0, "the KL of the mismatched answers is what this is about"
    assert [float(terms.extra[name][1]) for name in ("chosen_logps", "rejected_logps")] == [2, 3]


def test_log_probabilities_and_lengths_are_those_of_the_plain_softmax(params):
    item = pairs()[0]
    laid = batch([[pairs()[3], item]])
    answers = jax.jit(lambda laid: preference.segment_answers(preference.answer_logps(FORWARD, params, laid), laid))(laid)

    def alone(ids):
        return {"tokens": ids, "segments": jnp.ones_like(ids), "positions": jnp.arange(ids.shape[1])[None]}

    for place, part in enumerate(item.parts):
        ids = jnp.asarray(part.ids)[None]
        scores = jax.jit(lambda ids: llama.logits(params, FORWARD.hidden(params, alone(ids))))(ids)
        logps = jax.nn.log_softmax(scores)[0, jnp.arange(len(part.ids) - 1), ids[0, 1:]]
        np.testing.assert_allclose(answers.logps[0, 2 + place], logps[part.learnt[1:]].sum(), rtol=1e-5)
        assert float(answers.lengths[0, 2 + place]) == part.learnt.sum()
        np.testing.assert_allclose(answers.reference[0, 2 + place], part.facts["reference"], rtol=1e-6)


def test_what_each_pair_reports(params):
    items = pairs()
    (_, terms), _ = compiled("dpo")(params, batch([[items[0], items[1]]]))
    means = {name: float(total / count) for name, (total, count) in terms.extra.items()}
    assert set(means) == set(preference.OF_PAIRS)
    assert (means["chosen_length"], means["rejected_length"]) == (3.0, 3.0)
    assert means["margin"] == pytest.approx(means["chosen_reward"] - means["rejected_reward"], abs=1e-5)


def test_a_reward_is_read_at_the_last_token_of_each_answer(params):
    items, whole = pairs(), params | {"score": {"weight": jnp.linspace(-1.0, 1.0, 16)[None]}}
    laid = batch([[items[3], items[0]], [], [items[2]]])
    found = jax.jit(lambda laid: reward.answer_rewards(FORWARD, whole, laid))(laid)
    hidden = jax.jit(FORWARD.hidden)(params, laid)
    for row, place in ((0, [items[3], items[0]]), (2, [items[2]])):
        ends = np.cumsum([len(part.ids) for item in place for part in item.parts]) - 1
        np.testing.assert_allclose(found[row, : len(ends)], hidden[row, ends] @ jnp.linspace(-1.0, 1.0, 16), rtol=1e-4, atol=1e-5)
    assert not found[1].any() and not found[2, 2:].any()
    terms = jax.jit(reward.measure_pairs(FORWARD, 0.01))(whole, laid)
    assert float(terms.weight) == 3 and set(terms.extra) == set(reward.REPORTS)
