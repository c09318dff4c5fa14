"""The parts `answers` and `contamination` from the settings to the page, with answers from files and no model in memory."""

import json

import pytest

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.run import run
from alpaca_jax.scores.suites import results

RUN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def written(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


@pytest.fixture
def settings(tmp_path):
    """Three prompts, of which a training record has one as it is and another shares eight words, and answers of two systems."""
    asked = [f"Say <b>{RUN}</b>.", "Name a river.", "Say " + " ".join(RUN.split()[:8])]
    trained = [
        {"instruction": "Name a river!", "input": "", "output": "Oder"},
        {"instruction": "Count.", "output": RUN[: RUN.index(" nine")]},
    ]
    answered = [{"id": f"p{n}", "output": f"answer {n}"} for n in range(3)]
    (tmp_path / "run").mkdir()
    return {
        "dir": str(tmp_path / "run"),
        "parts": ["answers", "contamination"],
        "model": {},
        "batch": {"examples": 2, "sequence_length": 64},
        "samples": {"prompts": []},
        "answers": {
            "prompts": written(tmp_path / "asked.jsonl", [{"id": f"p{n}", "instruction": text} for n, text in enumerate(asked)]),
            "others": {"one": written(tmp_path / "one.jsonl", answered[:2]), "two": written(tmp_path / "two.jsonl", answered)},
        },
        "contamination": {"records": [written(tmp_path / "trained.jsonl", trained)]},
    }


def evaluated(settings, **changed):
    return run(parse(Config, settings | changed))


def test_answers_of_files_and_what_the_training_records_have_of_the_prompts(settings, tmp_path, capsys):
    written(tmp_path / "run" / "evaluate" / "compare" / "per_item.json", [{"asked": {"one": {"p0": 0.2, "p1": 1.0, "p2": 0.6}}}])
    scores = evaluated(settings)
    one, two = scores["answers"]["sets"]
    assert (one["answered"], one["missing"], two["answered"]) == (2, ["p2"], 3)
    found = scores["contamination"]
    assert found["records"] == 2
    assert {name: found["sets"]["asked"][name] for name in ("items", "equal", "gram13", "gram8", "rouge_l")} == {
        "items": 3,
        "equal": 1,
        "gram13": 0,
        "gram8": 2,
        "rouge_l": 1,
    }
    assert found["sets"]["asked"]["touched"]["gram8"] == ["p0", "p2"]
    assert (found["worst"][0]["id"], found["worst"][0]["record_text"]) == ("p1", "Name a river!\n\nOder")
    by_rule = {line["rule"]: line for line in found["scores"]}
    assert (by_rule["equal"]["all"], by_rule["equal"]["without"]) == (pytest.approx(0.6), pytest.approx(0.4))
    said = capsys.readouterr().out
    assert "one: prompts without an answer: 1 (p2)" in said
    assert "compare: preference of one on asked: 0.6000, without the 1 of 3 that are touched (equal) 0.4000" in said
    page = (tmp_path / "run" / "evaluate" / "report.html").read_text()
    assert "Contamination" in page and f"Say &lt;b&gt;{RUN}&lt;/b&gt;." in page and "answer 1" in page
    assert json.loads((tmp_path / "run" / "evaluate" / "scores.json").read_text()) == json.loads(json.dumps(scores))


def test_questions_of_a_suite_are_looked_for_too(settings, tmp_path):
    place = tmp_path.joinpath("run", *results.place("mine", "some/model"))
    head = {"results": {"sums": {"acc,none": 0.5, "sample_len": 2}}, "versions": {"sums": 1}, "n-shot": {"sums": 0}}
    place.mkdir(parents=True)
    (place / "results_2026-01-01T00-00-00.json").write_text(json.dumps(head))
    questions = ["Name a river", "Add."]
    lines = [
        {"doc_id": n, "doc": {"question": text, "answer": RUN}, "metrics": ["acc"], "acc": 1.0 - n} for n, text in enumerate(questions)
    ]
    written(place / "samples_sums_2026-01-01T00-00-00.jsonl", lines)
    scores = evaluated(
        settings,
        parts=["contamination"],
        model={"source": "some/model"},
        answers={"prompts": None},
        suites={"mine": {"tasks": ["sums"]}},
    )
    assert scores["contamination"]["sets"]["sums"]["touched"]["equal"] == ["0"]
    line = scores["contamination"]["scores"][0]
    assert (line["part"], line["model"], line["metric"], line["all"], line["without"]) == ("mine", "model", "acc", 0.5, 0.0)


def test_one_bad_file_leaves_the_others(settings, tmp_path, capsys):
    settings["answers"]["others"]["bad"] = written(tmp_path / "bad.jsonl", [{"id": "q", "output": "x"}])
    scores = evaluated(settings)
    assert [each["name"] for each in scores["answers"]["sets"]] == ["one", "two"]
    assert "it has none to the 3" in scores["answers"]["failed"]["bad"]
    assert "bad is left out" in capsys.readouterr().err


def test_what_can_t_be_used_at_all_is_said_first(settings, tmp_path):
    with pytest.raises(UserError, match=r"answers\.prompts: there is no file"):
        evaluated(settings, answers={"prompts": str(tmp_path / "none.jsonl")})
    with pytest.raises(UserError, match=r"answers\.others\.model is a name that has its meaning here"):
        evaluated(settings, answers=settings["answers"] | {"others": {"model": "x"}})
    with pytest.raises(UserError, match=r"contamination\.records: .*nothing"):
        evaluated(settings, contamination={"records": [str(tmp_path / "nothing")]})
