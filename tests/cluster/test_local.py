"""Jobs of processes on this machine: their end, their restarts, and who is told what."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster_jobs import eventually, running_below

from alpaca_jax.cluster import record, supervise
from alpaca_jax.cluster.job import Job, State
from alpaca_jax.cluster.local import Local
from alpaca_jax.cluster.logs import folder_of
from alpaca_jax.cluster.processes import LocalRanks
from alpaca_jax.errors import UserError

READY = "Path(folder / f'ready-{attempt}-{rank}').write_text(str(os.getpid()))\n"
WAIT = "time.sleep(60)\n"
# What `train` does: note the signal, save, leave with 200.
SAVES = f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(200))\n{READY}{WAIT}"
STEP = "(folder / 'train' / 'checkpoints' / str(attempt)).mkdir(parents=True)\n"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(supervise, "PAUSE_SECONDS", 0.05)


@pytest.fixture
def run(capsys):
    """Runs a job in the foreground: its exit code, the record it leaves, and what the person saw."""

    def go(job, grace=1.0):
        Local().check(job)
        record.renewed("local", job).write()
        code = supervise.supervise(job.folder, LocalRanks(show=lambda text: print(text, end=""), grace=grace))
        shown = capsys.readouterr()
        return code, record.read(job.folder), shown.out + shown.err

    return go


def pid_of(folder: Path, rank: int, attempt: int = 0) -> int:
    eventually(lambda: (folder / f"ready-{attempt}-{rank}").exists() and (folder / f"ready-{attempt}-{rank}").read_text() != "")
    return int((folder / f"ready-{attempt}-{rank}").read_text())


def launch(job) -> subprocess.Popen:
    """The job's supervisor as a process that tests send signals to."""
    record.renewed("local", job).write()
    return subprocess.Popen([sys.executable, "-m", "alpaca_jax.cluster", "supervise", str(job.folder)], stderr=subprocess.PIPE, text=True)


def test_all_ranks_done(run, scripted):
    code, found, shown = run(scripted("print('rank', rank, 'of', processes)", processes=3))
    assert (code, found.state, found.exit_code) == (0, State.done, 0)
    assert "rank 0 of 3" in shown and "rank 1 of 3" not in shown and "[alpaca-jax" not in shown
    for rank in range(3):
        head, said, tail = (folder_of(found.job.folder, 0) / f"rank-{rank:04d}.log").read_text().splitlines()
        assert head.startswith(f"[alpaca-jax rank={rank} host=") and "pid=" in head and "started=" in head
        assert said == f"rank {rank} of 3" and "exit=0" in tail


def test_a_done_job_is_not_started_again_but_another_command_is(run, scripted):
    job = scripted("pass")
    run(job)
    assert record.is_done(job)
    Local().submit(job)
    assert len(record.read(job.folder).attempts) == 1
    assert supervise.supervise(job.folder, LocalRanks()) == 0 and len(record.read(job.folder).attempts) == 1
    assert not record.is_done(scripted("pass", options={}) and record.dataclasses.replace(job, command=(*job.command, "steps=2")))


def test_a_rank_that_raises_ends_the_job_with_its_traceback_first(run, scripted):
    lines = "if rank == 1:\n    try:\n        1 / 0\n    except ArithmeticError as error:\n        raise ValueError('broken') from error\n"
    start = time.monotonic()
    code, found, shown = run(scripted(lines + WAIT, processes=3))
    assert time.monotonic() - start < 5
    assert (code, found.state, len(found.attempts)) == (1, State.failed, 1)
    first = shown.splitlines()[1 if "the checkout" in shown else 0]
    assert first.startswith("rank 1 on ") and "exit code 1" in first
    assert "ZeroDivisionError" in shown and "ValueError: broken" in shown
    assert not running_below(found.job.folder)


def test_a_peer_that_does_not_hear_is_made_to_end(run, scripted):
    lines = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{READY}if rank == 1:\n    time.sleep(0.5); sys.exit(1)\n{WAIT}"
    code, found, _ = run(scripted(lines), grace=0.5)
    assert code == 1 and not running_below(found.job.folder)
    assert "exit=137" in (folder_of(found.job.folder, 0) / "rank-0000.log").read_text()


def test_what_a_rank_leaves_behind_ends_with_it(run, scripted):
    left_behind = "import subprocess\nsubprocess.Popen(['tail', '-f', str(folder / 'job.json')])\n"
    _, found, _ = run(scripted(left_behind, processes=1))
    assert found.state is State.done
    eventually(lambda: not running_below(found.job.folder), 3)


def test_the_last_words_need_no_newline_to_be_understood(run, scripted):
    code, _, shown = run(scripted("sys.stderr.write('50%\\r')\nsys.exit(2)", processes=1))
    assert code == 2 and "50%" in shown


def test_a_command_that_does_not_exist(run, tmp_path):
    code, found, shown = run(Job(folder=tmp_path / "run", command=("no-such-program",), name="job"))
    assert (code, found.state) == (127, State.failed) and "no-such-program: can't be started" in shown


@pytest.mark.parametrize("code", [200, 201, 134])
def test_what_a_restart_can_mend_is_started_again(run, scripted, code):
    got, found, _ = run(scripted(f"sys.exit(0 if attempt else {code})"))
    assert (got, found.state) == (0, State.done)
    assert [attempt.exit_code for attempt in found.attempts] == [code, 0]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_what_a_restart_cannot_mend_is_not(run, scripted, code):
    got, found, _ = run(scripted(f"sys.exit({code})"))
    assert (got, found.state, len(found.attempts)) == (code, State.failed, 1)


def test_a_users_mistake_on_one_rank_is_one_even_where_peers_end_otherwise(run, scripted):
    code, found, _ = run(scripted("signal.signal(15, signal.SIG_IGN)\ntime.sleep(0.3 * (rank == 0))\nsys.exit(2 if rank == 0 else 201)"))
    assert (code, found.state) == (2, State.failed)


def test_a_killed_rank_is_restarted_so_often_and_no_more(run, scripted):
    code, found, shown = run(scripted("if rank == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\n" + WAIT, restarts=2))
    assert (code, found.state, len(found.attempts)) == (137, State.failed, 3)
    assert "rank 1 on" in shown and "SIGKILL" in shown and "given up after 3 attempts" in found.reason


def test_progress_brings_the_restarts_back(run, scripted):
    code, found, _ = run(scripted(f"if rank == 0 and attempt < 4:\n    {STEP}sys.exit(200)", restarts=1))
    # Four attempts with a newer checkpoint each, then two without one.
    assert (code, found.state, len(found.attempts), found.stalled) == (200, State.failed, 6, 2)


def test_the_ranks_get_what_they_need_to_know(run, scripted, monkeypatch):
    monkeypatch.setenv("ALPACA_JAX_PROCESS", "7")  # stale, of an outer launcher
    lines = "print({key: value for key, value in os.environ.items() if key.startswith('ALPACA_JAX_') or key == 'MINE'})"
    _, found, _ = run(scripted(lines, environment={"MINE": "x"}))
    said = (folder_of(found.job.folder, 0) / "rank-0001.log").read_text()
    assert "'ALPACA_JAX_COORDINATOR': '127.0.0.1:" in said and "'MINE': 'x'" in said
    for name, value in {"PROCESSES": 2, "PROCESS": 1, "ATTEMPT": 0, "LOCAL_PROCESSES": 2, "LOCAL_PROCESS": 1}.items():
        assert f"'ALPACA_JAX_{name}': '{value}'" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_launcher_reaches_every_rank_once(scripted, number):
    heard = int(signal.SIGTERM if number == signal.SIGHUP else number)
    lines = f"def leave(*_):\n    (folder / f'got-{{rank}}').open('a').write('x')\n    sys.exit(200)\nsignal.signal({heard}, leave)\n"
    job = scripted(lines + READY + WAIT)
    launcher = launch(job)
    for rank in range(2):
        pid_of(job.folder, rank)
    launcher.send_signal(number)
    _, said = launcher.communicate(timeout=10)
    assert launcher.returncode == (130 if number == signal.SIGINT else 200)
    assert [(job.folder / f"got-{rank}").read_text() for rank in range(2)] == ["x", "x"]
    found = record.read(job.folder)
    assert (found.state, found.exit_code) == (State.cancelled, 200) and "saved" in said


def test_a_killed_launcher_leaves_nothing_running_and_is_known_as_lost(scripted):
    child = "import subprocess\nsubprocess.Popen(['tail', '-f', str(folder / 'job.json')])\n"
    job = scripted(f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{child}{READY}{WAIT}")
    launcher = launch(job)
    for rank in range(2):
        pid_of(job.folder, rank)
    assert Local().state(job.folder).state is State.running
    launcher.kill()
    launcher.communicate()
    eventually(lambda: not running_below(job.folder), 3)
    assert Local().state(job.folder).state is State.lost


def test_a_killed_rank_process_takes_what_it_watches_over_with_it(scripted):
    job = scripted(READY + WAIT, restarts=0)
    launcher = launch(job)
    watched = pid_of(job.folder, 1)
    os.kill(int(Path(f"/proc/{watched}/stat").read_text().split(")")[1].split()[1]), signal.SIGKILL)
    assert launcher.wait(15) == 201
    launcher.communicate()
    assert not running_below(job.folder)


def test_a_detached_job_is_followed_cancelled_and_goes_on(scripted):
    job = scripted(SAVES)
    local = Local()
    local.submit(job)
    for rank in range(2):
        pid_of(job.folder, rank)
    assert local.state(job.folder).state is State.running
    with pytest.raises(UserError, match="running already"):
        local.submit(job)
    local.cancel(job.folder)
    assert local.state(job.folder).state is State.cancelled and not running_below(job.folder)
    assert "stopped by SIGTERM" in (job.folder / "logs" / "supervisor.log").read_text()
    local.submit(job)
    pid_of(job.folder, 0, attempt=1)
    local.cancel(job.folder)
    assert [attempt.number for attempt in record.read(job.folder).attempts] == [0, 1]


def test_launch_local_sh_runs_the_command_line(tmp_path):
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHON": sys.executable}
    command = [root / "launch" / "local.sh", "1", "train", f"dir={tmp_path / 'run'}", "no_such_key=1"]
    found = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2 and "no_such_key" in found.stderr and "rank 0 on" in found.stderr
    assert record.read(tmp_path / "run").state is State.failed


@pytest.mark.parametrize("script", ["local.sh", "tpu_pod.sh"])
def test_a_launcher_without_an_environment_says_how_to_get_one(tmp_path, script):
    shutil.copytree(Path(__file__).parents[2] / "launch", tmp_path / "launch")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "VIRTUAL_ENV")} | {"PATH": "/usr/bin:/bin"}
    ended = subprocess.run(["bash", tmp_path / "launch" / script, "1"], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert f"run `make install` in {tmp_path}, or give PYTHON=FILE" in ended.stderr


def test_a_job_that_is_being_started_is_not_lost_and_not_started_twice(tmp_path):
    job = Job(tmp_path / "run", (sys.executable, "-c", "pass"), "being-started")
    found = record.renewed("local", job)
    found.write()
    assert Local().state(job.folder).state is State.queued
    with pytest.raises(UserError, match="queued or running already"):
        Local().check(job)
    found.queued = "2026-01-01T00:00:00+00:00"
    found.write()
    assert Local().state(job.folder).state is State.lost
