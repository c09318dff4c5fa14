"""What is refused before a job is anywhere, and what job.json, the logs and the checkout tell later."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from alpaca_jax.cluster import checkout, logs, record
from alpaca_jax.cluster.__main__ import main
from alpaca_jax.cluster.job import Job, State, restartable
from alpaca_jax.cluster.local import Local
from alpaca_jax.cluster.slurm.backend import Slurm
from alpaca_jax.errors import UserError


def job(folder: Path, **rest) -> Job:
    return Job(**({"folder": folder, "command": ("true",), "name": "job"} | rest))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("name", "x" * 64, "64 characters"),
        ("name", "my job", "letters, digits"),
        ("name", "-x", "letters, digits"),
        ("command", (), "no command"),
        ("nodes", 0, "nodes is 0"),
        ("processes_per_node", -1, "processes_per_node is -1"),
        ("restarts", -1, "restarts is -1"),
        ("time_limit", 0, "time_limit is 0"),
    ],
)
def test_a_job_that_can_be_nowhere(tmp_path, field, value, complaint):
    with pytest.raises(UserError, match=complaint):
        job(tmp_path, **{field: value})


def test_a_secret_is_named_and_never_given(tmp_path):
    with pytest.raises(UserError, match="among the secrets only"):
        job(tmp_path, secrets=("KEY",), environment={"KEY": "value"})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"nodes": 2}, "this machine is one"),
        ({"options": {"partition": "main"}}, "'partition' is not an option of the local backend"),
        ({"secrets": ("NOT_SET_ANYWHERE",)}, "export NOT_SET_ANYWHERE=... before the launch"),
        ({"time_limit": 5}, "have no time limit"),
    ],
)
def test_what_this_machine_cannot_do(tmp_path, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        Local().submit(job(tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no Slurm here"):
        Slurm().submit(job(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["local", "2", "steps=1"], "dir= is missing"),
        (["local", "2", "dir=gs://bucket/run"], "give --folder DIR"),
        (["local", "0", "dir=x"], "processes_per_node is 0"),
        (["slurm", "--option", "partition", "dir=x"], "give KEY=VALUE"),
        (["allocation", "dir=x"], "not inside a Slurm allocation"),
        (["supervise", "/nowhere"], "holds no job"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, complaint, capsys):
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_only_what_a_restart_can_mend():
    assert [code for code in (0, 1, 2, 127, 128, 130, 134, 137, 143, 200, 201) if restartable(code)] == [128, 134, 137, 143, 200, 201]


def test_job_json_comes_back_as_it_was_and_holds_no_value_of_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "s3cret")
    one = job(tmp_path / "run", secrets=("KEY",), environment={"MINE": "x"}, options={"partition": "main"}, time_limit=5, run="gs://b/r")
    written = record.Record("local", one, state=State.restarting, id="7", stalled=1)
    written.begin()
    assert record.read(one.folder) == written
    assert "s3cret" not in (one.folder / "job.json").read_text()
    moved = one.folder.rename(tmp_path / "moved")
    assert record.read(moved).job == dataclasses.replace(one, folder=moved)


def test_a_job_json_of_another_version_or_a_torn_one(tmp_path):
    record.Record("local", job(tmp_path)).write()
    (tmp_path / "job.json").write_text(json.dumps(json.loads((tmp_path / "job.json").read_text()) | {"state": "flying"}))
    with pytest.raises(UserError, match="not a job of this version"):
        record.read(tmp_path)
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        record.read(tmp_path)


def test_a_run_that_was_trained_without_a_job_is_no_done_job(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "summary.json").write_text("{}")
    assert not record.is_done(job(tmp_path))


# --- the logs of an attempt -------------------------------------------------------------------------------------------------------


def log(folder: Path, rank: int, said: str, end: str | None = None) -> None:
    lines = [f"[alpaca-jax rank={rank} host=n{rank} pid=1 started=2026-01-01T00:00:00.000+00:00]", said]
    if end:
        lines.append(f"[alpaca-jax rank={rank} host=n{rank} {end}]")
    (folder / f"rank-{rank:04d}.log").write_text("\n".join(lines) + "\n")


def at(second: float) -> str:
    return f"2026-01-01T00:{int(second // 60):02d}:{second % 60:06.3f}+00:00"


def test_the_traceback_that_came_first_is_shown_though_its_rank_has_ended_last(tmp_path):
    log(tmp_path, 0, "Traceback (most recent call last):\n  File x\nLater: peer gone", f"exit=1 ended={at(21)} traceback={at(20)}")
    log(tmp_path, 1, "Traceback (most recent call last):\n  File y\nFirst: the cause", f"exit=1 ended={at(99)} traceback={at(10)}")
    log(tmp_path, 2, "fine", f"exit=143 ended={at(15)} traceback=none")
    found = logs.ends(tmp_path, 3)
    assert logs.exit_code(found) == 1
    assert "rank 1 on n1" in logs.explain(found) and "First: the cause" in logs.explain(found) and "peer gone" not in logs.explain(found)


def test_an_old_traceback_that_was_survived_does_not_count(tmp_path):
    log(tmp_path, 0, "Traceback (most recent call last):\n  File x\nCaught: and logged", f"exit=143 ended={at(3000)} traceback={at(1)}")
    log(tmp_path, 1, "Killed", f"exit=137 ended={at(2990)} traceback=none")
    assert "rank 1 on n1 was ended by SIGKILL" in logs.explain(logs.ends(tmp_path, 2))


def test_a_rank_whose_host_died_or_that_has_never_started_is_lost(tmp_path):
    log(tmp_path, 0, "step 7")
    log(tmp_path, 1, "aborted", "exit=134 ended=2999-01-01T00:00:00.000+00:00 traceback=none")
    found = logs.ends(tmp_path, 3)
    assert logs.exit_code(found) == 201 and "rank 0 on n0 was cut off" in logs.explain(found) and "step 7" in logs.explain(found)
    assert "never started" in logs.ends(tmp_path, 3)[2].how


def test_where_jax_ends_a_rank_what_it_said_of_the_silent_peer_is_shown(tmp_path):
    silent = "alpaca-jax: rank 1 on n1 (process 7) has been silent for 6 s: it is stopped or cut off"
    log(tmp_path, 0, f"alpaca-jax: warning\n{silent}\nF0000 Check failure\n    @ 0x7f", f"exit=134 ended={at(1)} traceback=none")
    log(tmp_path, 1, "F0000", f"exit=134 ended={at(2)} traceback=none")
    head, *told = logs.explain(logs.ends(tmp_path, 2)).splitlines()
    assert "rank 0 on n0 was ended by SIGABRT" in head and told == [f"  {silent}"]


def test_some_have_saved_and_others_were_done(tmp_path):
    log(tmp_path, 0, "", f"exit=200 ended={at(1)} traceback=none")
    log(tmp_path, 1, "", f"exit=0 ended={at(2)} traceback=none")
    assert logs.exit_code(logs.ends(tmp_path, 2)) == 200


@pytest.mark.parametrize(
    ("ended", "code", "rank"),
    [
        (["201 5.100", "143 5.300"], 201, 0),
        (["143 5.300", "201 5.100"], 201, 1),
        (["143 5.000", "201 5.100"], 201, 1),  # in whole seconds, as Kubernetes tells it: some time in this second
        (["143 4.000", "201 5.100"], 143, 0),  # ended a second before: the other one has lost its peer
        (["143 5.050", "201 5.100"], 143, 0),
        (["143 5.000", "1 5.100", "143 5.000"], 1, 1),
        (["143 5.200", "201 5.150", "1 5.100"], 1, 2),
        (["143 5.000", "143 4.900", "143 5.300"], 143, 1),  # the job was stopped from outside
        (["200 4.000", "143 5.000"], 143, 1),
        (["143 5.000", "0 4.000", "200 4.900"], 143, 0),
    ],
)
def test_a_rank_that_sigterm_ended_after_another_had_failed_is_not_the_cause(tmp_path, ended, code, rank):
    for number, (exit_code, second) in enumerate(end.split() for end in ended):
        log(tmp_path, number, "", f"exit={exit_code} ended={at(float(second))} traceback=none")
    found = logs.ends(tmp_path, len(ended))
    assert logs.exit_code(found) == code and logs.first_failure(found).rank == rank


def test_a_rank_that_waited_for_its_peers_after_its_traceback_is_the_cause_though_sigterm_ended_it(tmp_path):
    log(tmp_path, 0, "Traceback (most recent call last):\n  File x\nFirst: the cause", f"exit=143 ended={at(30)} traceback={at(10)}")
    log(tmp_path, 1, "peer gone", f"exit=201 ended={at(20)} traceback=none")
    assert "rank 0 on n0" in logs.explain(logs.ends(tmp_path, 2))


def test_a_long_traceback_is_shortened_and_a_chain_kept():
    first = ["Traceback (most recent call last):", *["  File a"] * 100, "ValueError: the cause", ""]
    second = ["The above exception was the direct cause of the following exception:", "", "Traceback (most recent call last):", "  File b"]
    shown = logs.traceback(["before", *first, *second, "RuntimeError: two", "lines", "", "after"])
    assert shown[0] == first[0] and shown[-2:] == ["RuntimeError: two", "lines"] and len(shown) <= 41


# --- what was launched ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    package = tmp_path / "code" / "alpaca_jax"
    package.mkdir(parents=True)
    (package / "a.py").write_text("one = 1\n")
    git = ["git", "-C", str(package.parent), "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    return package


def test_a_changed_checkout_is_said_and_its_diff_kept(tmp_path, repository):
    assert checkout.write_diff(tmp_path / "logs", repository) == "" and not (tmp_path / "logs").exists()
    (repository / "a.py").write_text("one = 2\n")
    (repository / "new.py").write_text("new = 3\n")
    (repository.parent / "secrets.txt").write_text("s3cret\n")
    assert "differs from its commit" in checkout.write_diff(tmp_path / "logs", repository)
    diff = (tmp_path / "logs" / "checkout.diff").read_text()
    assert "+one = 2" in diff and "+new = 3" in diff and "s3cret" not in diff


def test_an_installed_package_has_no_checkout(tmp_path, repository):
    (repository.parent / ".gitignore").write_text("venv\n")
    installed = repository.parent / "venv" / "alpaca_jax"
    installed.mkdir(parents=True)
    assert checkout.write_diff(tmp_path / "logs", installed) == ""
