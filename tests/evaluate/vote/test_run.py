"""The whole of `action=vote` over an evaluation's folder: what is read there, and what is left."""

import json
import os
import signal
import threading
import urllib.request

import pytest

from alpaca_jax import lock
from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate import page
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.parts import answers, people
from alpaca_jax.evaluate.run import run
from alpaca_jax.evaluate.settings import settle
from alpaca_jax.evaluate.vote import material
from alpaca_jax.rundir import RunDir, read_json, write_atomic, write_json
from alpaca_jax.scores import prompts
from alpaca_jax.scores.answers import Answer, AnswerSet, file
from alpaca_jax.scores.judge.asking import Verdict
from alpaca_jax.scores.judge.bouts import Fought, bouts
from alpaca_jax.terminal import Console


def configured(folder, **more):
    """The config of an evaluation whose folder is `folder`."""
    return parse(Config, {"dir": str(folder.parent), "model": {}, "batch": {"examples": 1}, "samples": {"prompts": []}} | more)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """`dir/evaluate` after the part answers, and a judge's preferences: four prompts, two models, one equal answer, one missing."""
    place = tmp_path / "prompts.jsonl"
    place.write_text("".join(json.dumps({"id": f"task_{n}", "instruction": f"Do thing {n}."}) + "\n" for n in range(4)))
    asked = prompts.read(str(place))
    texts = {"student": ["one", "the same", "three", "four"], "teacher": ["uno is longer", "the same", "tres is longer"]}
    sets = [AnswerSet.of(name, name, asked, {f"task_{n}": [Answer(text)] for n, text in enumerate(said)}) for name, said in texts.items()]
    for each in sets:
        file.write(tmp_path / f"{each.name}.jsonl", each)
    made = tmp_path / "run" / "evaluate"
    others = {name: str(tmp_path / f"{name}.jsonl") for name in texts}
    run(configured(made, parts=["answers"], answers={"prompts": str(place), "others": others}))
    lines = [Fought(bout, Verdict(0.4), Verdict(0.1)).line() for bout in bouts(asked, *sets) if bout.prompt.id != "task_2"]
    write_atomic(made / "compare" / "preferences.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    compared = {"compare": {"comparisons": [{"model": "student", "against": "teacher"}]}}
    write_json(made / "scores.json", read_json(made / "scores.json") | compared)
    monkeypatch.setattr(page, "PARTS", (answers, people))  # a judge's own section needs more of its value
    return made


def test_what_people_are_asked(folder):
    read = material.read(folder, 0)
    assert [question.prompt for question in read.questions] == ["task_0", "task_2"]
    assert read.questions[0].answers == (("one",), ("uno is longer",))
    assert read.questions[0].models == ("student", "teacher")
    assert read.judged[read.questions[0].key] == 0.25 and read.questions[1].key not in read.judged
    assert (read.anchor, read.equal) == ("teacher", 1)


def test_what_a_judge_compared_is_what_people_compare(folder):
    scores = read_json(folder / "scores.json")
    write_json(folder / "scores.json", scores | {"compare": {"comparisons": [{"model": "teacher", "against": "student"}]}})
    read = material.read(folder, 0)
    assert [question.models for question in read.questions] == [("teacher", "student")] * 2
    assert (read.anchor, read.judged) == ("student", {})


def test_what_a_judge_said_of_earlier_models_counts_no_more(folder):
    scores = read_json(folder / "scores.json")
    del scores["compare"]  # as `score` does where the model is another
    write_json(folder / "scores.json", scores)
    read = material.read(folder, 0)
    assert [question.models for question in read.questions] == [("student", "teacher")] * 2
    assert read.judged == {}


def test_what_a_judge_said_of_earlier_answers_counts_no_more(folder):
    path = folder / "answers" / "student.jsonl"
    path.write_text(path.read_text().replace('"one"', '"one more"'))
    read = material.read(folder, 0)
    assert read.questions[0].answers[0] == ("one more",) and read.questions[0].key not in read.judged


def test_too_little_to_vote_on(folder):
    scores = read_json(folder / "scores.json")
    scores["answers"]["sets"].pop()
    del scores["compare"]
    write_json(folder / "scores.json", scores)
    with pytest.raises(UserError, match="has the answers of student alone; people compare two models"):
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

    def voters():
        while not ready.exists() and not ended.wait(0.01):
            pass
        try:
            url = json.loads(ready.read_text())["url"]
            shown.extend(vote_for_the_longer(url, name) for name in ("ada", "bob"))
        finally:
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=voters)
    config = configured(folder, action="vote", vote={"port": 0, "overlap": 1, "ready": str(ready)})
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
    assert scores["answers"]["sets"]  # what the others left is still there
    assert value["voters"] == {"ada": 2, "bob": 2}
    for row, items in zip(value["agreement"], (2, 2, 4), strict=True):
        assert (row["all"]["items"], row["all"]["agreed"]["value"]) == (items, 100.0)
    assert value["pairs"][0]["rate"]["estimate"]["value"] == 0.0
    assert "people with people" in (folder / "report.html").read_text()


def test_an_object_store_is_refused(folder, monkeypatch):
    monkeypatch.setattr("alpaca_jax.storage.is_remote", lambda path: True)
    with pytest.raises(UserError, match="give a folder on a disk"):
        run(configured(folder, action="vote"))


def test_one_page_a_folder(folder):
    with lock.held(folder.parent, "evaluate/votes", "evaluate"), pytest.raises(UserError, match="evaluate/votes"):
        run(configured(folder, action="vote"))


def test_votes_on_answers_that_are_gone_do_not_end_an_evaluation(folder, capsys):
    (folder / "scores.json").unlink()
    config = configured(folder)
    context = Context(config, settle(config), RunDir(folder.parent), Console())
    assert people.conclude(context, None, None) is None
    people.show(None, {}, Console())
    assert "the votes are left out" in capsys.readouterr().out
