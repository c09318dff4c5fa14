"""Rollouts in files: found again where they are the same, and made again where they aren't."""

import pytest

from alpaca_jax.train.rollout.kept import Kept

LINES = [{"prompt": 0, "ids": [5, 1], "logps": [-0.1234567890123, -1e-9], "answered": "ü\u2028"}]


def never():
    raise AssertionError("it is in the file")


@pytest.fixture
def folder(tmp_path):
    assert Kept(tmp_path, {"seed": 1}).get(7, range(4, 5), lambda: LINES, 4) == LINES
    return tmp_path


def test_it_is_read_again_for_the_same_step_and_settings_to_the_last_bit(folder):
    assert Kept(folder, {"seed": 1}).get(7, range(4, 6), never, 5) == LINES


@pytest.mark.parametrize(
    ("key", "index", "steps"), [({"seed": 2}, 7, range(4, 5)), ({"seed": 1}, 7, range(5, 6)), ({"seed": 1}, 8, range(4, 5))]
)
def test_other_settings_steps_or_batches_are_made_anew(folder, key, index, steps):
    assert Kept(folder, key).get(index, steps, list, steps[0]) == []


def test_a_broken_file_is_made_anew(folder):
    path = Kept(folder, {}).path(7)
    path.write_bytes(path.read_bytes()[:-9])
    assert Kept(folder, {"seed": 1}).get(7, range(4, 5), list, 4) == []
