"""What the next halving costs: the curve is found, its interval holds the truth, and what can't be said isn't."""

import math

import numpy as np
import pytest

from alpaca_jax.scores.frontier.halving import fit, halving, money
from alpaca_jax.scores.frontier.quality import HELDOUT, Kind, Quality

DOLLARS = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])


def law(dollars: np.ndarray, floor: float = 2.0, scale: float = 3.0, exponent: float = 0.5) -> np.ndarray:
    return floor + scale * dollars**-exponent


def qualities(losses: np.ndarray, stderr: float | None) -> list[Quality]:
    return [Quality(float(loss), stderr, "set") for loss in losses]


def test_a_power_law_with_a_floor_is_found() -> None:
    curve = fit(DOLLARS, law(DOLLARS), np.full(6, 0.01))
    assert (curve.floor, curve.scale, curve.exponent) == pytest.approx((2.0, 3.0, 0.5), rel=0.03)
    # Half of what is above the floor: four times the dollars at an exponent of a half.
    assert curve.halving(32.0) == pytest.approx(96.0, rel=0.1)


def test_the_sentence_gives_the_dollars_and_an_interval_that_holds_the_truth() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(10):
        said = halving(HELDOUT, DOLLARS.tolist(), qualities(law(DOLLARS) + 0.005 * random.standard_normal(6), 0.005))
        assert said.dollars is not None and said.low is not None and said.high is not None
        held += said.low <= 96.0 <= said.high
    assert held >= 8
    assert "Halving what is left of the held-out loss above its floor" in said.sentence and "95% interval" in said.sentence


def test_a_score_is_taken_as_what_it_lacks_of_the_best() -> None:
    score = Kind("suites.basics", "score on basics", lower=False)
    said = halving(score, DOLLARS.tolist(), qualities(1.0 - law(DOLLARS, 0.1, 0.5), 0.001))
    assert said.floor == pytest.approx(0.1, abs=0.02)
    assert "could hardly be seen" not in said.sentence


def test_half_of_what_is_left_may_be_too_little_to_be_seen() -> None:
    steep = law(DOLLARS, exponent=2.0)  # 0.003 above the floor at the end
    said = halving(HELDOUT, DOLLARS.tolist(), qualities(steep, 0.01))
    assert said.dollars is not None and "less than the standard error of the best run (0.01), so it could hardly be seen" in said.sentence


@pytest.mark.parametrize(
    ("losses", "stderr", "why"),
    [
        (law(DOLLARS)[:3], 0.01, "the front has 3 runs, and a curve with a floor needs 4 or more"),
        (law(DOLLARS)[:1], 0.01, "the front has 1 run,"),
        (law(DOLLARS), None, "not every run on it has a standard error"),
        (np.array([9.0, 8.0, 7.9, 3.0, 2.9, 2.0]), 0.01, "the front is no single power law"),
        (law(DOLLARS), 0.6, "can't be said from these runs"),
        (5.0 - 0.5 * np.log(DOLLARS), 0.05, "would have to hold for"),  # no floor is in sight
    ],
)
def test_what_cannot_be_said_is_not(losses: np.ndarray, stderr: float | None, why: str) -> None:
    said = halving(HELDOUT, DOLLARS[: len(losses)].tolist(), qualities(losses, stderr))
    assert why in said.sentence and said.dollars is None
    assert ("the last step along the front" in said.sentence) == (len(losses) > 1)


def test_a_front_of_noise_is_said_to_be_one() -> None:
    said = halving(HELDOUT, DOLLARS.tolist(), qualities(law(DOLLARS, scale=0.1), 0.1))
    assert "can't be said: the best run on the front, at $32.00, can't be told from the cheapest, at $1.00" in said.sentence
    assert said.dollars is None


def test_the_examples_are_drawn_again_for_all_runs_at_once() -> None:
    # What makes an example hard is common to all runs, so it hardly widens the interval of the exponent.
    hard = np.random.default_rng(0).normal(1.0, 0.2, 200)
    each = [Quality(float(loss), 0.01, "set", np.stack([loss * hard / hard.mean() * 10, np.full(200, 10.0)])) for loss in law(DOLLARS)]
    common, apart = halving(HELDOUT, DOLLARS.tolist(), each), halving(HELDOUT, DOLLARS.tolist(), qualities(law(DOLLARS), 0.03))
    assert common.low is not None and common.high is not None
    assert common.high - common.low < 10
    assert apart.low is None or apart.high is None or apart.high - apart.low > common.high - common.low


def test_an_exponent_at_the_edge_has_no_halving() -> None:
    assert math.isinf(fit(DOLLARS, np.full(6, 3.0), np.full(6, 0.1)).halving(1.0))


@pytest.mark.parametrize(
    ("dollars", "text"), [(0, "$0"), (0.00123456, "$0.00123"), (0.5, "$0.500"), (1.234, "$1.23"), (12.34, "$12.34"), (1234.5, "$1,234")]
)
def test_money_has_cents_and_below_a_dollar_three_figures(dollars: float, text: str) -> None:
    assert money(dollars) == text


def test_a_last_step_that_is_noise_is_said_to_be() -> None:
    steps = [halving(HELDOUT, [1.0, 2.0, 4.0], qualities(np.array([4.0, 3.0, last]), 0.1)).sentence for last in (2.0, 2.9)]
    assert "made the held-out loss 1 lower (3.000 to 2.000, 95% interval 0.72 to 1.3)." in steps[0]
    assert "95% interval -0.18 to 0.38), which can't be told from nothing." in steps[1]
