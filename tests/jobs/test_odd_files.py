"""Files of a job that were changed at random: each is read as what it is or named, and none ends an action with a traceback."""

import copy
import json
import random

import pytest

from alpaca_jax.cluster import logs, rank, record
from alpaca_jax.cluster.job import Job, State, Status
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import backends, queue, sweep
from alpaca_jax.jobs.config import Config
from alpaca_jax.jobs.run import run

ODD = [None, True, -1, 0, 2**63, 1e400, "", "x", "-x", "--all", "../..", "a\0b", [], {}, [[]], {"a": []}, ["x"], "[/y]", "\x1b[2J"]
MUTATIONS = 200


class Nothing:
    """A backend that does nothing."""

    def check(self, job):
        pass

    def submit(self, job):
        record.renewed("nothing", job).write()

    def state(self, folder):
        return Status(record.read(folder).state)

    def cancel(self, folder):
        pass


def mutated(value, chosen):
    """A copy of a JSON value with one thing in it replaced, removed, or added."""
    value = copy.deepcopy(value)
    places = []
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        for key in list(inner) if isinstance(inner, dict) else range(len(inner)):
            places.append((inner, key))
            if isinstance(inner[key], dict | list):
                waiting.append(inner[key])
    inner, key = chosen.choice(places)
    if chosen.random() < 0.2:
        del inner[key]
    else:
        inner[key] = chosen.choice(ODD)
    return value


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A sweep of one failed job with all its files."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setitem(backends.BACKENDS, "nothing", Nothing)
    monkeypatch.setattr(queue, "start", lambda *_: None)
    jobs = sweep.Sweep(tmp_path / "s", "nothing", "train", "heldout_loss", parallel=1)
    job = Job(folder=jobs.folder / "0", command=("true",), name="one", environment={"A": "b"}, options={"c": "d"})
    found = record.renewed("nothing", job)
    attempt = found.begin()
    found.end(1)
    found.settle(State.failed, "exit code 1")
    jobs.entries.append(sweep.Entry("0", {"seed": "0"}, ("seed=0",), str(job.folder), job, {"objective": 1.0}))
    jobs.sealed(jobs.entries)
    jobs.write()
    queue.Queue(waiting=[], refused={"1": "full"}).write(jobs.folder)
    log = rank.log_of(logs.folder_of(job.folder, attempt.number), 0)
    log.parent.mkdir(parents=True)
    log.write_text(
        rank.line(0, "h", pid=1) + "Traceback (most recent call last)\nx\n" + rank.line(0, "h", exit=1, ended="x", traceback="x")
    )
    (job.folder / "train").mkdir()
    (job.folder / "train" / "summary.json").write_text('{"heldout_loss": 1.0, "heldout_step": 3, "steps": 3, "dollars": 1.0}')
    return jobs.folder


def test_no_change_of_a_file_ends_an_action_with_a_traceback(folder, capsys):
    chosen = random.Random(0)
    files = [folder / "sweep.json", folder / "queue.json", folder / "0" / "job.json", folder / "0" / "train" / "summary.json"]
    originals = {file: json.loads(file.read_text()) for file in files}
    refused = 0
    for number in range(MUTATIONS):
        file = chosen.choice(files)
        for each, content in originals.items():
            each.write_text(json.dumps(mutated(content, chosen) if each == file else content))
        where, action = (folder, folder / "0")[number % 2], ("status", "logs", "cancel", "resume")[number // 2 % 4]
        try:
            run(Config(dir=str(where), action=action, trust=action in ("cancel", "resume") and number % 3 == 0))
        except UserError:
            refused += 1
        assert "\x1b[2J" not in capsys.readouterr().out
    assert 20 < refused < MUTATIONS
