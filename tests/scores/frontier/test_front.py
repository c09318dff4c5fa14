"""Who is on the front, and who can't be told from it."""

import numpy as np
import pytest

from alpaca_jax.scores.frontier.front import along, place
from alpaca_jax.scores.frontier.quality import Quality, difference


def plain(*values: float, stderr: float | None = None) -> list[Quality]:
    return [Quality(value, stderr, "set") for value in values]


def places(dollars: list[float], qualities: list[Quality], lower: bool = True) -> list[str]:
    return [one.place for one in place(dollars, qualities, lower)]


def test_a_run_is_on_the_front_if_all_that_cost_no_more_are_worse() -> None:
    dollars, losses = [4.0, 1.0, 3.0, 2.0, 5.0], plain(2.0, 5.0, 3.5, 3.0, 2.5)
    placed = place(dollars, losses, lower=True)
    assert [one.place for one in placed] == ["front", "front", "behind", "front", "behind"]
    assert along(dollars, placed) == [1, 3, 0]
    assert placed[2].against == 3 and placed[2].gap == 0.5
    assert placed[4].against == 0
    assert places(dollars, plain(*(-loss.value for loss in losses)), lower=False) == [one.place for one in placed]


def test_of_equal_runs_the_first_is_on_the_front_and_the_others_are_tied() -> None:
    assert places([1.0, 1.0, 2.0], plain(3.0, 3.0, 3.0)) == ["front", "tied", "tied"]
    assert places([1.0, 1.0], plain(3.0, 2.0)) == ["behind", "front"]


@pytest.mark.parametrize(("gap", "expected"), [(0.27, "tied"), (0.28, "behind")])
def test_two_samples_are_told_apart_at_two_standard_errors_of_their_difference(gap: float, expected: str) -> None:
    # 1.96 * sqrt(0.1 ** 2 + 0.1 ** 2) = 0.277
    assert places([1.0, 2.0], plain(3.0, 3.0 + gap, stderr=0.1))[1] == expected


def test_without_a_standard_error_nothing_is_tied() -> None:
    assert places([1.0, 2.0], plain(3.0, 3.0001)) == ["front", "behind"]


def test_the_same_examples_are_compared_in_pairs() -> None:
    tokens = np.array([10.0, 30.0, 20.0, 40.0])
    hard = np.array([1.0, 9.0, 2.0, 6.0])
    one = Quality(3.0, 1.0, "set", np.stack([tokens * hard, tokens]))
    other = Quality(2.9, 1.0, "set", np.stack([tokens * (hard - 0.1), tokens]))
    gap, stderr = difference(one, other)
    assert gap == pytest.approx(0.1) and stderr == pytest.approx(0.0, abs=1e-12)
    # By hand: differences 0.2 and 0.4 of one token each, so a standard error of half their distance.
    ones = np.ones(2)
    a, b = (Quality(value, 9.9, "set", np.stack([np.array(losses), ones])) for value, losses in ((0.3, [0.2, 0.4]), (0.0, [0.0, 0.0])))
    assert difference(a, b) == pytest.approx((0.3, 0.1))
    shorter = Quality(0.0, 0.1, "set", np.ones((2, 3)))
    assert difference(a, shorter)[1] == pytest.approx(np.hypot(9.9, 0.1))
