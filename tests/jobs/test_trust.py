"""Jobs that somebody else has launched are shown, not run; and files of theirs that are odd are named, not stumbled over."""

import dataclasses
import json
import os

import psutil
import pytest
from rich.console import Console

from alpaca_jax import __main__ as cli
from alpaca_jax.cluster import record, seal
from alpaca_jax.cluster.job import Job, State, Status
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import backends, queue, status, sweep
from alpaca_jax.jobs.config import Config
from alpaca_jax.jobs.run import run
from alpaca_jax.jobs.status import Row
from alpaca_jax.launcher import results


class Watched:
    """A backend that notes what it is asked to start and to end."""

    asked: list = []

    def check(self, job):
        record.check_not_active(self, job.folder)

    def submit(self, job):
        self.asked.append(job.command)
        record.renewed("watched", job).write()

    def state(self, folder):
        found = record.read(folder)
        return Status(found.state, None, None, found.exit_code, found.reason)

    def cancel(self, folder):
        self.asked.append(folder.name)


@pytest.fixture(autouse=True)
def own_key(tmp_path, monkeypatch):
    """A user of the tests' own, and the backend."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    monkeypatch.setitem(backends.BACKENDS, "watched", Watched)
    monkeypatch.setattr(Watched, "asked", [])


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A context of another user, with another key."""

    def leave(make):
        with monkeypatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", str(tmp_path / "theirs"))
            return make()

    return leave


def failed(folder, **changes):
    """A job that has failed, so that resume would run it."""
    job = Job(folder=folder, command=("sh", "-c", "echo [/pwned]"), name="one", environment={"LD_PRELOAD": "x.so"}, **changes)
    found = record.renewed("watched", job)
    found.settle(State.failed, "exit code 1")
    return job


def swept(folder):
    jobs = sweep.Sweep(folder, "watched", "train", "heldout_loss", entries=[])
    for name in "01":
        jobs.entries.append(sweep.Entry(name, {"seed": name}, ("seed=" + name,), str(folder / name), failed(folder / name)))
    jobs.sealed(jobs.entries)
    jobs.write()
    return jobs


def jobs(folder, action, *words):
    return cli.main(["jobs", f"action={action}", f"dir={folder}", *words])


def test_ones_own_job_is_resumed_wherever_its_folder_has_moved(tmp_path):
    failed(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert jobs(tmp_path / "moved", "resume") == 0
    assert Watched.asked == [("sh", "-c", "echo [/pwned]")]


@pytest.mark.parametrize("action", ["resume", "cancel"])
@pytest.mark.parametrize("make", [failed, swept])
def test_a_strangers_jobs_are_shown_and_not_touched_without_trust(tmp_path, stranger, capsys, make, action):
    stranger(lambda: make(tmp_path / "run"))
    assert jobs(tmp_path / "run", "status") == 0
    capsys.readouterr()
    assert jobs(tmp_path / "run", action) == 2
    said = capsys.readouterr().err
    assert "sh -c 'echo [/pwned]'" in said and "LD_PRELOAD=x.so" in said and "give trust=true" in said
    assert Watched.asked == []
    assert jobs(tmp_path / "run", action, "trust=true") == 0
    if action == "resume" and make is failed:
        assert Watched.asked == [("sh", "-c", "echo [/pwned]")]
        assert seal.holds(record.read(tmp_path / "run").seal, record.launched("watched", record.read(tmp_path / "run").job))


@pytest.mark.parametrize(
    "change",
    [{"command": ["rm"]}, {"environment": {"PATH": "/tmp"}}, {"directory": "/tmp"}, {"options": {"setup": "x"}}, {"secrets": ["HF_TOKEN"]}],
)
def test_whatever_a_launch_decides_is_sealed(tmp_path, capsys, change):
    failed(tmp_path / "run")
    file = tmp_path / "run" / "job.json"
    value = json.loads(file.read_text())
    file.write_text(json.dumps(value | {"job": value["job"] | change}))
    assert jobs(tmp_path / "run", "resume") == 2
    assert "job.json was changed, or written by somebody else" in capsys.readouterr().err
    file.write_text(json.dumps(value | {"backend": "local"}))
    assert jobs(tmp_path / "run", "resume") == 2 and Watched.asked == []


def test_a_job_of_an_older_version_has_no_seal(tmp_path, capsys):
    failed(tmp_path / "run")
    file = tmp_path / "run" / "job.json"
    value = json.loads(file.read_text())
    del value["seal"]
    file.write_text(json.dumps(value))
    assert jobs(tmp_path / "run", "resume") == 2
    assert "written by an older version, or elsewhere" in capsys.readouterr().err


def test_another_users_file_is_named(tmp_path, monkeypatch, capsys):
    failed(tmp_path / "run")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert jobs(tmp_path / "run", "resume") == 2
    assert f"job.json belongs to user {(tmp_path / 'run' / 'job.json').stat().st_uid}" in capsys.readouterr().err


def test_a_key_is_its_users_alone(tmp_path):
    made = seal.made({"a": 1})
    key = tmp_path / "mine" / "alpaca_jax" / "seal.key"
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    assert seal.holds(made, {"a": 1}) and not seal.holds(made, {"a": 2}) and not seal.holds("ä", {"a": 1}) and not seal.holds("", {})
    key.chmod(0o644)
    assert not seal.holds(made, {"a": 1})


def test_without_a_home_there_is_no_seal_and_no_traceback(monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert seal.made({"a": 1}) == "" and not seal.holds("", {"a": 1})


def test_a_process_that_a_strangers_file_names_is_left_alone(tmp_path, stranger):
    def make():
        job = Job(folder=tmp_path / "run", command=("true",), name="one")
        found = record.renewed("local", job)
        found.launcher = {"host": record.this_process()["host"], "pid": os.getpid(), "created": psutil.Process().create_time()}
        found.begin()

    stranger(make)
    assert jobs(tmp_path / "run", "cancel") == 2  # and this process is still here


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "3",
        "null",
        "{",
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"job": []}',
        '{"job": {"command": "x"}}',
        '{"reason": "\\ud800"}',
        "\xff",
    ],
)
@pytest.mark.parametrize("name", ["job.json", "sweep.json", "queue.json"])
def test_a_broken_file_is_named(tmp_path, name, content):
    folder = tmp_path / "run"
    swept(folder) if name == "queue.json" else folder.mkdir()
    (folder / name).write_bytes(content.encode("latin-1"))
    for action in ("status", "logs", "cancel", "resume"):
        with pytest.raises(UserError, match=name):
            run(Config(dir=str(folder), action=action))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "--all"}, "is not the id of a job"),
        ({"launcher": {"host": "h", "pid": -1, "created": 1.0}}, "pid=-1 is no process id"),
        ({"launcher": {"host": "h"}}, "launcher.pid: is needed"),
        ({"queued": "yesterday"}, "yesterday"),
        ({"queued": "2026-01-01T00:00:00"}, "has no time zone"),
        ({"attempts": [[]]}, "attempts.0"),
        ({"job.nodes": 10**9}, "a job has at most 65536 processes"),
        ({"job.name": "--all"}, "must have only letters"),
        ({"job.command": ["a\0b"]}, "null byte"),
        ({"job.environment": {"A=B": "x"}}, "is not the name of a variable"),
        ({"state": "odd"}, "state: input should be"),
    ],
)
def test_each_field_of_a_job_is_what_it_should_be(tmp_path, change, expected):
    failed(tmp_path / "run")
    file = tmp_path / "run" / "job.json"
    value = json.loads(file.read_text())
    for key, given in change.items():
        inner = value["job"] if key.startswith("job.") else value
        inner[key.removeprefix("job.")] = given
    file.write_text(json.dumps(value))
    with pytest.raises(UserError, match=expected):
        record.read(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"name": "../../etc"}, "not the name of a job"), ({"name": "1"}, "two of its jobs"), ({"swept": {"a": []}}, "swept.a")],
)
def test_each_field_of_a_sweep_is_what_it_should_be(tmp_path, change, expected):
    swept(tmp_path / "run")
    file = tmp_path / "run" / "sweep.json"
    value = json.loads(file.read_text())
    value["entries"][0] |= change
    file.write_text(json.dumps(value))
    with pytest.raises(UserError, match=expected):
        sweep.read(tmp_path / "run")


def test_values_in_brackets_and_control_characters_are_printed_as_they_are(tmp_path, capsys):
    found = swept(tmp_path / "run")
    values = ["[embed.*]", "[/y]", "[red]", "\x1b[2J", "[bold"]
    for value in values:
        entry = dataclasses.replace(
            found.entries[0], swept={"optimizer.[frozen]": value}, result={"objective": "x", "dollars": [1], "hours": 1}
        )
        rows = [Row(entry, Status(State.done))]
        for table in (status.table(rows), results.table(found, rows)):
            with (console := Console(width=200)).capture() as shown:
                console.print(table)
            assert value in shown.get() and "[frozen]" in shown.get()
    assert queue.read(tmp_path / "run").waiting == []
    found.entries[0].swept = {"seed": values[3]}
    found.write()
    assert jobs(tmp_path / "run", "status") == 0
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown and "\\x1b[2J" in shown
