"""A judge in the middle of a run: its figures, and that the run goes on without it."""

import io
import json

import pytest
from scripted_judge import ScriptedJudge, quality
from scripted_teacher import scripted_teacher

from alpaca_jax.errors import Lost, UserError
from alpaca_jax.rundir import RunDir
from alpaca_jax.scores.answers import Answer, AnswersConfig, AnswerSet, own
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.teacher.config import Prices, TeacherConfig
from alpaca_jax.terminal import Console
from alpaca_jax.train import comparison
from alpaca_jax.train.comparison import Comparison

TEACHER = TeacherConfig(base_url="http://127.0.0.1:9/v1", model="judge", free=True)
RECORDS = [{"instruction": f"Say {number}.", "input": "", "output": f"{number}."} for number in range(4)]


def made(folder, **changes):
    """A comparison with the answers that the prompts hold, and what it prints."""
    (folder / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    judge = JudgeConfig(**{"teacher": TEACHER, "against": ("reference",)} | changes)
    said = io.StringIO()
    return Comparison(AnswersConfig(prompts=str(folder / "prompts.jsonl")), judge, RunDir(folder / "run"), Console(file=said)), said


@pytest.fixture
def same_answers(monkeypatch):
    """A model that answers as the file of prompts does, so that nobody has to be asked."""

    def answer(loaded, name, prompts, config, path, console):
        return AnswerSet.of(name, "run", prompts, {prompt.id: [Answer(str(prompt.source["output"]))] for prompt in prompts})

    monkeypatch.setattr(own, "answer", answer)


def test_equal_answers_are_a_tie_and_cost_nothing(tmp_path, same_answers):
    found, _ = made(tmp_path)
    figures = found.figures(None, 7)
    assert (figures["compare/win_rate"], figures["compare/dollars"]) == (50.0, 0.0)
    value = json.loads((tmp_path / "run" / "train" / "compare" / "7.json").read_text())
    assert value["comparisons"][0]["equal"] == value["comparisons"][0]["prompts"] == 4


def test_a_judge_over_http_sees_the_model_get_better_within_its_budget(tmp_path, monkeypatch):
    logits = iter([-2.0, 2.0, 2.0])
    priced = Prices(prompt=2.0, completion=8.0, source="test")

    def answer(loaded, name, prompts, config, path, console):
        better = next(logits)
        return AnswerSet.of(name, "run", prompts, {prompt.id: [Answer(f"{prompt.id} {quality(better)}")] for prompt in prompts})

    monkeypatch.setattr(own, "answer", answer)
    script = ScriptedJudge(position=1.0)
    with scripted_teacher(script) as server:
        teacher = TeacherConfig(base_url=server.base_url, model="judge", prices=priced)
        found, _ = made(tmp_path, teacher=teacher)
        early, late = found.figures(None, 1), found.figures(None, 2)
        asked = sum(script.asked.values())
        assert early["compare/win_rate"] < 20 and late["compare/win_rate"] > 80
        assert 0 < early["compare/dollars"] < late["compare/dollars"] and asked == 2 * 2 * len(RECORDS)
        assert found.figures(None, 3) == late and sum(script.asked.values()) == asked  # the same answers again are free
        spent, _ = made(tmp_path, teacher=teacher, max_dollars=late["compare/dollars"] + 1e-6)
        logits = iter([0.5])
        assert "compare/win_rate" not in spent.figures(None, 4) and sum(script.asked.values()) == asked


@pytest.mark.parametrize("error", [Lost("the judge is gone"), UserError("the judge refuses")])
def test_without_its_judge_a_run_goes_on(tmp_path, same_answers, monkeypatch, error):
    def fail(*_):
        raise error

    found, said = made(tmp_path)
    monkeypatch.setattr(comparison, "compare", fail)
    assert found.figures(None, 7) == {}
    assert f"step 7 was not compared, and the run goes on: {error}" in " ".join(said.getvalue().split())


def test_what_is_missing_is_said_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        made(tmp_path, teacher=TeacherConfig(model="gpt-4.1-mini"))
    RECORDS_WITHOUT = [{"instruction": "Say it.", "input": "", "output": ""}]
    monkeypatch.setitem(globals(), "RECORDS", RECORDS_WITHOUT)
    with pytest.raises(UserError, match="holds no reference answers"):
        made(tmp_path)
