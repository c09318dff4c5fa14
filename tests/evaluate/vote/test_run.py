"""The whole of `action=vote` over an evaluation's folder: what is read there, and what is left."""

import json
import os
import signal
import threading
import urllib.request

import pytest

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.run import run
from alpaca_jax.evaluate.vote import material


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
    assert read.judged[read.questions[0].key] == 0.25 and read.questions[1].key not in read.judged
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


def vote_for_the_longer(url, name):
    """Votes to the end, and returns what the page says at the end."""
    place = post(url, "/enter", voter=name)
    while ballot := place["ballot"]:
        longer = max("ab", key=lambda side: len(ballot[side][0]))
        place = post(url, "/vote", voter=name, ballot=ballot["id"], level={"a": "first_much", "b": "second_slightly"}[longer])
    return post(url, "/close", voter=name)["results"]


def test_two_voters_then_ctrl_c_and_the_scores_have_their_kappa(folder, tmp_path, capsys):
    ready = tmp_path / "ready.json"
    ended = threading.Event()
    shown = []

    def people():
        while not ready.exists() and not ended.wait(0.01):
            pass
        try:
            url = json.loads(ready.read_text())["url"]
            shown.extend(vote_for_the_longer(url, name) for name in ("ada", "bob"))
        finally:
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=people)
    settings = {"port": 0, "overlap": 1, "ready": str(ready)}
    config = parse(Config, {"dir": str(folder.parent), "action": "vote", "vote": settings, "model": {}, "batch": {"examples": 1}})
    thread.start()
    try:
        value = run(config)
    finally:
        ended.set()
        thread.join()
    assert [table["title"] for table in shown[1]] == ["What people prefer", "Who agrees with whom"]
    assert "teacher" in json.dumps(shown)
    assert not ready.exists()
    told = capsys.readouterr()
    assert "2 questions, 100% of them for every voter; 1 with equal answers are left out" in told.err
    assert "Who agrees with whom" in told.out
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["people"] == json.loads(json.dumps(value))
    assert scores["compare"]["comparisons"]  # what the others left is still there
    assert value["voters"] == {"ada": 2, "bob": 2}
    for row, items in zip(value["agreement"], (2, 2, 4), strict=True):
        assert (row["all"]["items"], row["all"]["agreed"]["value"]) == (items, 100.0)
    assert value["pairs"][0]["rate"]["estimate"]["value"] == 0.0
    assert "What people prefer" in (folder / "report.html").read_text()


def test_an_object_store_is_refused(folder, monkeypatch):
    monkeypatch.setattr("alpaca_jax.storage.is_remote", lambda path: True)
    config = parse(Config, {"dir": str(folder.parent), "action": "vote", "model": {}, "batch": {"examples": 1}})
    with pytest.raises(UserError, match="give a folder on a disk"):
        run(config)
