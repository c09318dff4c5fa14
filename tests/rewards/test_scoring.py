"""Rewards added up, and those with a problem."""

import math
from pathlib import Path

import pytest
import scripted_teacher

from alpaca_jax.errors import UserError
from alpaca_jax.rewards.config import ExactConfig, JudgeRewardConfig, LengthConfig, PythonConfig, TestsConfig
from alpaca_jax.rewards.sandbox import Ran
from alpaca_jax.rewards.scoring import Rewards, Sample, problems
from alpaca_jax.teacher.config import TeacherConfig


def test_parts_are_weighted_and_added():
    rewards = Rewards({"right": ExactConfig(name="exact", weight=2.0), "short": LengthConfig(name="length", most=1, weight=0.5)}, Path())
    found = rewards.score([Sample("?", "yes", "yes"), Sample("?", "oh no", "yes")])
    assert [one.reward for one in found] == [2.5, 0.0]
    assert found[0].parts == {"right": 1.0, "short": 1.0}


def test_a_broken_reward_is_counted_and_named_and_gives_no_number(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def reward(prompt, answer, key):\n"
        "    if answer == 'hang':\n        import time; time.sleep(99)\n"
        "    return {'nan': float('nan'), 'text': 'x', 'inf': 1e999}[answer] if answer in ('nan', 'text', 'inf') else 1 / int(answer)\n"
    )
    rewards = Rewards(
        {"mine": PythonConfig(name="python", file=str(file), seconds=2.0), "none": LengthConfig(name="length", most=9)}, tmp_path
    )
    found = rewards.score([Sample("?", answer) for answer in ("2", "0", "nan", "inf", "text", "hang")])
    assert [one.reward for one in found] == [1.5, None, None, None, None, None]
    assert list(problems(found)) == [
        "reward mine raised ZeroDivisionError: division by zero",
        "reward mine returned nan",
        "reward mine returned inf",
        "reward mine returned a str",
        "reward mine took longer than 2 s",
    ]
    assert found[1].parts == {"mine": None, "none": 1.0}


def test_code_that_hangs_is_a_wrong_answer(monkeypatch):
    monkeypatch.setattr("alpaca_jax.rewards.sandbox.passes", lambda *given: Ran(None, "took longer than 5 s"))
    [found] = Rewards({"code": TestsConfig(name="tests")}, Path()).score([Sample("?", "while True: pass", "assert True")])
    assert found.reward == 0.0 and not found.problem and math.isfinite(found.reward)


@pytest.mark.parametrize(("content", "why"), [(None, "can't be read"), ("def (", "can't be read"), ("x = 1", "defines no function reward")])
def test_a_file_without_a_reward_is_named_before_anything_runs(tmp_path, content, why):
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=f"reward mine: .*{why}"):
        Rewards({"mine": PythonConfig(name="python", file=str(file))}, tmp_path)


def test_a_judge_grades_each_answer_once(tmp_path):
    def script(number, body):
        said = body["messages"][-1]["content"].partition("[Answer]")[2]
        text = "Grade: 10." if "good" in said else "no idea" if "odd" in said else "1"
        return scripted_teacher.Reply(scripted_teacher.answer(text, body))

    with scripted_teacher.scripted_teacher(script) as server:
        teacher = TeacherConfig(base_url=server.base_url, model="judge", free=True)
        config = JudgeRewardConfig(name="judge", teacher=teacher, retries=1)
        samples = [Sample("Say it.", answer) for answer in ("good", "bad", "odd", "good")]
        found = Rewards({"judge": config}, tmp_path).score(samples)
        assert [one.reward for one in found] == [1.0, 0.0, None, 1.0]
        assert found[2].problem == "reward judge gave no grade: 'no idea'"
        assert len(server.bodies) == 4  # an equal answer isn't graded twice, and what can't be read is asked for again
        assert Rewards({"judge": config}, tmp_path).score(samples) == found
        assert len(server.bodies) == 4


def test_a_judge_has_to_be_served():
    config = JudgeRewardConfig(name="judge", teacher=TeacherConfig(source="smollm2-135m-instruct"))
    with pytest.raises(UserError, match="reward mine: a judge is asked at every step: serve it"):
        Rewards({"mine": config}, Path())
