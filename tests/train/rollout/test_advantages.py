"""Advantages, worked by hand."""

import numpy as np
import pytest

from alpaca_jax.train.rollout import advantages

REWARDS = np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0], [0.0, 3.0, 1.0, 8.0]])
ALL = np.ones(REWARDS.shape, bool)


@pytest.mark.parametrize(
    ("kind", "first", "third"),
    [
        ("standard", np.array([0.5, -0.5, -0.5, 0.5]) / (np.sqrt(1 / 3) + 1e-4), np.array([-3, 0, -2, 5]) / (np.sqrt(38 / 3) + 1e-4)),
        ("mean", [0.5, -0.5, -0.5, 0.5], [-3, 0, -2, 5]),
        ("others", [2 / 3, -2 / 3, -2 / 3, 2 / 3], [0 - 4, 3 - 3, 1 - 11 / 3, 8 - 4 / 3]),
    ],
)
def test_each_kind(kind, first, third):
    found = advantages.of(REWARDS, ALL, kind)
    np.testing.assert_allclose(found, [first, [0, 0, 0, 0], third], atol=1e-12)


def test_what_does_not_count_is_left_out_of_its_group():
    counted = ALL.copy()
    counted[2, 3] = counted[0, 1:] = False
    found = advantages.of(np.where(counted, REWARDS, np.nan), counted, "others")
    np.testing.assert_allclose(found, [[0, 0, 0, 0], [0, 0, 0, 0], [-2, 2.5, -0.5, 0]], atol=1e-12)


def test_groups_that_teach_nothing():
    counted = ALL.copy()
    counted[2] = [False, True, False, False]
    assert advantages.all_equal(REWARDS, counted).tolist() == [False, True, True]
