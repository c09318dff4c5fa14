"""Rewards added up, and those with a problem."""

import math

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.rewards.config import ExactConfig, LengthConfig, PythonConfig, TestsConfig
from alpaca_jax.rewards.sandbox import Ran
from alpaca_jax.rewards.scoring import Rewards, Sample, problems


def test_parts_are_weighted_and_added():
    rewards = Rewards({"right": ExactConfig(name="exact", weight=2.0), "short": LengthConfig(name="length", most=1, weight=0.5)})
    found = rewards.score([Sample("?", "yes", "yes"), Sample("?", "oh no", "yes")])
    assert [one.reward for one in found] == [2.5, 0.0]
    assert found[0].parts == {"right": 1.0, "short": 1.0}


def test_a_broken_reward_is_counted_and_named_and_gives_no_number(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def reward(prompt, answer, key):\n"
        "    if answer == 'hang':\n        while True: pass\n"
        "    return {'nan': float('nan'), 'text': 'x', 'inf': 1e999}[answer] if answer in ('nan', 'text', 'inf') else 1 / int(answer)\n"
    )
    rewards = Rewards({"mine": PythonConfig(name="python", file=str(file), seconds=0.5), "none": LengthConfig(name="length", most=9)})
    found = rewards.score([Sample("?", answer) for answer in ("2", "0", "nan", "inf", "text", "hang")])
    assert [one.reward for one in found] == [1.5, None, None, None, None, None]
    assert list(problems(found)) == [
        "reward mine raised ZeroDivisionError: division by zero",
        "reward mine returned nan",
        "reward mine returned inf",
        "reward mine returned a str",
        "reward mine took longer than 0.5 s",
    ]
    assert found[1].parts == {"mine": None, "none": 1.0}


def test_code_that_hangs_is_a_wrong_answer(monkeypatch):
    monkeypatch.setattr("alpaca_jax.rewards.sandbox.passes", lambda *given: Ran(None, "took longer than 5 s"))
    [found] = Rewards({"code": TestsConfig(name="tests")}).score([Sample("?", "while True: pass", "assert True")])
    assert found.reward == 0.0 and not found.problem and math.isfinite(found.reward)


@pytest.mark.parametrize(("content", "why"), [(None, "can't be read"), ("def (", "can't be read"), ("x = 1", "defines no function reward")])
def test_a_file_without_a_reward_is_named_before_anything_runs(tmp_path, content, why):
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=f"reward mine: .*{why}"):
        Rewards({"mine": PythonConfig(name="python", file=str(file))})
