"""Two files of answers compared by a judge, from the settings to the page."""

import json
import ssl

import pytest
from scripted_judge import ScriptedJudge, quality
from scripted_teacher import scripted_teacher

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.run import run

NUMBER = 12


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No certificates, which take a tenth of a second to read and are not needed."""
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)


@pytest.fixture
def settings(tmp_path):
    """Prompts with reference answers, two files of answers, and a judge at an address that is to be filled in."""
    prompts = [{"id": f"p{n}", "instruction": f"Say {n} [bold].", "output": f"Reference {n}. {quality(0.5)}"} for n in range(NUMBER)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    for name, logits in (("good", 2.5), ("bad", 0.0)):
        lines = [{"id": f"p{n}", "text": f"{name} answer to {n}. {quality(logits + n % 3)}"} for n in range(NUMBER)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "dir": str(tmp_path / "run"),
        "parts": ["answers", "compare"],
        "model": {},
        "batch": {"examples": 2, "sequence_length": 64},
        "answers": {
            "prompts": str(tmp_path / "prompts.jsonl"),
            "others": {name: str(tmp_path / f"{name}.jsonl") for name in ("good", "bad")},
        },
        "compare": {
            "teacher": {
                "base_url": "",
                "model": "gpt-judge",
                "prices": {"prompt": 2.0, "completion": 8.0, "source": "test"},
                "max_retries": 2,
            },
            "models": ["good"],
            "against": ["bad"],
        },
    }


def evaluated(settings, script, **compare):
    with scripted_teacher(script) as server:
        teacher = settings["compare"]["teacher"] | {"base_url": server.base_url} | compare.pop("teacher", {})
        return run(parse(Config, settings | {"compare": settings["compare"] | compare | {"teacher": teacher}}))


def test_a_comparison_from_files_to_the_page(settings, tmp_path, capsys):
    script = ScriptedJudge(position=0.4)
    scores = evaluated(settings, script)
    folder = tmp_path / "run" / "evaluate"
    assert json.loads((folder / "scores.json").read_text())["compare"] == json.loads(json.dumps(scores["compare"]))
    (found,) = scores["compare"]["comparisons"]
    assert found["verdict"]["word"] == "better" and found["rate"]["wins"] == NUMBER
    said = capsys.readouterr()
    assert "good is better than bad" in said.out and "dollars" in said.out
    lines = [line for line in said.err.splitlines() if "24 to ask, about" in line]
    assert len(lines) == 1 and "0.0000 of 5 dollars are spent" in lines[0]
    page = (folder / "report.html").read_text()
    assert "Compared by a judge" in page and "good against bad" in page and 'class="interval"' in page
    preferences = [json.loads(line) for line in (folder / "compare" / "preferences.jsonl").read_text().splitlines()]
    assert len(preferences) == NUMBER and preferences[0].keys() >= {"model", "against", "prompt", "seed", "texts", "preference"}
    assert set(json.loads((folder / "compare" / "per_item.json").read_text())["prompts"]["good"]) == {f"p{n}" for n in range(NUMBER)}
    again = evaluated(settings, script)
    assert again["compare"] == scores["compare"] and len(script.asked) == script.calls == 2 * NUMBER
    assert "nothing is asked" in capsys.readouterr().err


def test_reference_answers_and_several_models(settings):
    scores = evaluated(settings, ScriptedJudge("letter"), models=["good", "bad"], against=["reference"])
    value = scores["compare"]
    assert [(each["model"], each["against"]) for each in value["comparisons"]] == [("good", "reference"), ("bad", "reference")]
    assert value["paired"][0]["difference"]["estimate"]["value"] > 0 and value["ranking"]["anchor"] == "reference"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["nobody"]}, r"compare.models: there are no answers named 'nobody'; give one of baseline, model, good, bad"),
        ({"against": ["baseline"]}, r"compare: there is no baseline; give baseline=MODEL"),
        ({"teacher": {"prices": None}}, r"compare.teacher.prices: the price of 'gpt-judge' is unknown.*compare.teacher.free=true"),
        ({"teacher": {"key_env": "NOT_SET"}}, r"compare.teacher.key_env: the environment variable NOT_SET is not set"),
        ({"against": []}, r"against=\[\] leaves nothing to compare"),
        ({"against": ["bad", "bad"]}, r"names one of them twice"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_asked(settings, change, message):
    script = ScriptedJudge()
    with pytest.raises(UserError, match=message):
        evaluated(settings, script, **change)
    assert script.calls == 0


def test_a_judge_that_refuses_leaves_the_answers(settings, tmp_path):
    with pytest.raises(UserError, match='gives no verdict on 3 pairs; it said: "I can\'t do that."'):
        evaluated(settings, ScriptedJudge(says="I can't do that."))
    folder = tmp_path / "run" / "evaluate"
    assert json.loads((folder / "scores.json").read_text())["answers"]["sets"] and "Answers" in (folder / "report.html").read_text()


def test_a_budget_that_ends_early_is_said(settings, capsys):
    scores = evaluated(settings, ScriptedJudge("letter"), max_dollars=0.01)
    value = scores["compare"]
    assert value["stopped_by"] == "dollars" and value["unreadable"]["not asked"] > 0
    assert value["bill"]["dollars"] + value["bill"]["doubtful_dollars"] <= 0.01
    assert "The budget of dollars ended the comparison" in capsys.readouterr().out
