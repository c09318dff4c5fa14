"""The losses of preferences against TRL's own trainers and against the papers' formulas in fp64."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.trainer import preferences
from alpaca_jax.trainer.preferences import Answers

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "preference.json").read_text())


def drawn():
    return Answers(*(jnp.array(GOLDENS["answers"][name], jnp.float32) for name in ("logps", "reference", "lengths")))


def halves(answers):
    return [Answers(*(half[place] for half in (jnp.split(each, 2) for each in answers))) for place in (0, 1)]


def of_pairs(loss):
    return lambda answers: loss(*halves(answers)).mean()


def kto(answers):
    desired = (jnp.arange(len(answers.logps)) < len(answers.logps) // 2).astype(jnp.float32)
    kl = jnp.maximum(jax.lax.stop_gradient(answers.gain).mean() + 1.5, 0.0)
    return (preferences.kto(answers, desired, kl, 0.1) * jnp.where(desired > 0, 1.0, 1.25)).mean()


LOSSES = {
    **{
        name: of_pairs(lambda c, r, name=name: preferences.PAIR_LOSSES[name](c, r, *_settings(name)))
        for name in ("sigmoid", "hinge", "ipo", "robust", "sigmoid_norm")
    },
    "simpo": of_pairs(lambda c, r: preferences.simpo(c, r, 2.0, 1.0)),
    "orpo": of_pairs(lambda c, r: 0.1 * preferences.odds_ratio(c, r)),
    "kto": kto,
}


def _settings(name):
    given = GOLDENS["losses"][name]["settings"]
    return given["beta"], given.get("smoothing", 0.0)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_those_of_trl(name):
    answers, golden = drawn(), GOLDENS["losses"][name]
    value, gradient = jax.value_and_grad(lambda logps: LOSSES[name](answers._replace(logps=logps)))(answers.logps)
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, golden["gradient"], rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_reward_model_is_that_of_trl():
    scores, golden = jnp.array(GOLDENS["answers"]["scores"], jnp.float32), GOLDENS["losses"]["reward"]
    value, gradient = jax.value_and_grad(lambda scores: preferences.reward(*jnp.split(scores, 2), 0.01).mean())(scores)
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, golden["gradient"], rtol=1e-5, atol=1e-6)


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def odds(mean):
    return np.log(np.exp(mean) / (1 - np.exp(mean)))


PAPERS = {  # of a = chosen, b = rejected: log-probability, reference, length
    "sigmoid": (lambda a, b: -log_sigmoid(0.1 * (a[0] - a[1] - b[0] + b[1])), lambda a, b: preferences.sigmoid(a, b, 0.1)),
    "conservative": (
        lambda a, b: -0.8 * log_sigmoid(0.1 * (a[0] - a[1] - b[0] + b[1])) - 0.2 * log_sigmoid(-0.1 * (a[0] - a[1] - b[0] + b[1])),
        lambda a, b: preferences.sigmoid(a, b, 0.1, 0.2),
    ),
    "hinge": (lambda a, b: np.maximum(0, 1 - 0.1 * (a[0] - a[1] - b[0] + b[1])), lambda a, b: preferences.hinge(a, b, 0.1)),
    "ipo": (lambda a, b: ((a[0] - a[1]) / a[2] - (b[0] - b[1]) / b[2] - 5) ** 2, lambda a, b: preferences.ipo(a, b, 0.1)),
    "simpo": (lambda a, b: -log_sigmoid(2 * (a[0] / a[2] - b[0] / b[2]) - 1), lambda a, b: preferences.simpo(a, b, 2.0, 1.0)),
    "orpo": (lambda a, b: -log_sigmoid(odds(a[0] / a[2]) - odds(b[0] / b[2])), preferences.odds_ratio),
}


@pytest.mark.parametrize("name", PAPERS)
def test_losses_are_the_papers_formulas(name):
    random = np.random.default_rng(1)
    lengths = random.integers(1, 30, (2, 40)).astype(float)
    logps, references = (-lengths * random.uniform(0.05, 3, (2, 40)) for _ in range(2))
    sides = list(zip(logps, references, lengths, strict=True))
    paper, ours = PAPERS[name]
    found = ours(*(Answers(*(jnp.array(x, jnp.float32) for x in side)) for side in sides))
    np.testing.assert_allclose(found, paper(*sides), rtol=1e-4, atol=1e-5)


def test_a_policy_that_is_its_reference_starts_at_log_2():
    answers = Answers(jnp.array([-3.0, -70.25]), jnp.array([-3.0, -70.25]), jnp.array([2.0, 40.0]))
    for name in ("sigmoid", "robust", "sigmoid_norm"):
        assert preferences.PAIR_LOSSES[name](answers, answers, 0.1, 0.2).tolist() == [float(np.float32(np.log(2)))] * 2


def test_an_answer_of_probability_1_has_finite_odds():
    certain, other = (Answers(jnp.array([x]), jnp.zeros(1), jnp.ones(1)) for x in (0.0, -1.0))
    for pair in ((certain, other), (other, certain)):
        value, gradient = jax.value_and_grad(lambda x, pair=pair: preferences.odds_ratio(pair[0]._replace(logps=x), pair[1]).sum())(
            pair[0].logps
        )
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
