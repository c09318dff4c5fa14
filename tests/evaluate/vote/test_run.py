"""The whole of `action=vote` over an evaluation's folder: what is read there, and what is left."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.vote import material

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path):
    """`dir/evaluate` as the parts answers and compare leave it: four prompts, two models, one equal answer, one missing."""
    place = tmp_path / "prompts.jsonl"
    place.write_text("".join(json.dumps({"id": f"task_{n}", "instruction": f"Do thing {n}."}) + "\n" for n in range(4)))
    made = tmp_path / "run" / "evaluate"
    (made / "answers").mkdir(parents=True)
    texts = {"model": ["one", "the same", "three", "four"], "teacher": ["uno is longer", "the same", "tres is longer"]}
    for name, answers in texts.items():
        lines = [{"id": f"task_{n}", "seed": 0, "output": text} for n, text in enumerate(answers)]
        (made / "answers" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = {
        "model": "m",
        "answers": {"prompts": {"place": str(place), "number": 4}, "sets": [{"name": name} for name in texts]},
        "compare": {"comparisons": [{"model": "model", "against": "teacher"}]},
    }
    (made / "scores.json").write_text(json.dumps(scores))
    (made / "compare").mkdir()
    said = [{"model": "model", "against": "teacher", "prompt": f"task_{n}", "seed": 0, "preference": 0.25} for n in (0, 1)]
    (made / "compare" / "preferences.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    return made


def test_what_people_are_asked(folder):
    read = material.read(folder, 0)
    assert [question.prompt for question in read.questions] == ["task_0", "task_2"]
    assert read.questions[0].answers == (("one",), ("uno is longer",))
    assert read.questions[0].models == ("model", "teacher")
    assert read.judged == {read.questions[0].key: 0.25}
    assert (read.anchor, read.equal) == ("teacher", 1)


def test_without_a_judge_every_two_models_are_compared(folder):
    scores = json.loads((folder / "scores.json").read_text())
    del scores["compare"]
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "compare" / "preferences.jsonl").unlink()
    read = material.read(folder, 0)
    assert [question.models for question in read.questions] == [("model", "teacher")] * 2
    assert read.judged == {}


def test_too_little_to_vote_on(folder):
    scores = json.loads((folder / "scores.json").read_text())
    scores["answers"]["sets"].pop()
    (folder / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(UserError, match="has the answers of model alone; people compare two models"):
        material.read(folder, 0)
    with pytest.raises(UserError, match=r"has no answers to vote on; evaluate first, with answers\.prompts=FILE"):
        material.read(folder / "answers", 0)


def post(url, path, **body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=20).read())


def test_two_voters_then_ctrl_c_and_the_scores_have_their_kappa(folder, tmp_path):
    ready = tmp_path / "ready.json"
    words = [f"dir={folder.parent}", "action=vote", "vote.port=0", "vote.overlap=1", f"vote.ready={ready}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "alpaca_jax", "evaluate", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not ready.exists() and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
        url = json.loads(ready.read_text())["url"]
        for name in ("ada", "bob"):
            place = post(url, "/enter", voter=name)
            while place["ballot"]:
                longer = max(place["ballot"]["a"], place["ballot"]["b"], key=lambda texts: len(texts[0]))
                level = "first_much" if longer == place["ballot"]["a"] else "second_much"
                place = post(url, "/vote", voter=name, ballot=place["ballot"]["id"], level=level)
        assert "teacher" in json.dumps(post(url, "/close", voter="ada")["results"])
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, output
    assert "Who agrees with whom" in output and "2 questions, 100% of them for every voter; 1 with equal answers are left out" in output
    assert not ready.exists()
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["compare"]["comparisons"]  # what the others left is still there
    people, judge, rule = scores["people"]["agreement"]
    assert scores["people"]["voters"] == {"ada": 2, "bob": 2}
    for row, items in ((people, 2), (judge, 2), (rule, 4)):
        assert (row["all"]["items"], row["all"]["agreed"]["value"]) == (items, 100.0)
    assert scores["people"]["pairs"][0]["rate"]["estimate"]["value"] == 0.0
    assert "What people prefer" in (folder / "report.html").read_text()
