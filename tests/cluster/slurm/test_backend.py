"""Jobs on a real Slurm of two nodes, which this module starts and ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster
from cluster_jobs import eventually, running_below

from alpaca_jax.cluster import record
from alpaca_jax.cluster.job import State
from alpaca_jax.cluster.slurm import queue as slurm_queue
from alpaca_jax.cluster.slurm.backend import Slurm
from alpaca_jax.errors import UserError

READY = "(folder / f'ready-{attempt}-{rank}').write_text('')\n"
WAIT = "time.sleep(60)\n"
# What `train` does: note the signal, save, leave with 200.
SAVES = """
def leave(number, _):
    (folder / f'got-{attempt}-{rank}').open('a').write(signal.Signals(number).name + ' ')
    sys.exit(200)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGUSR1, leave)
"""


@pytest.fixture(scope="module", autouse=True)
def running(tmp_path_factory):
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(running.conf))
        yield running


@pytest.fixture(autouse=True)
def emptied(running):
    """A test that fails leaves no job to the next one."""
    yield
    subprocess.run(["scancel", "--user=root"], check=True, capture_output=True)
    eventually(lambda: slurm_queue.ask("squeue", "--noheader") == "", 20)


def ended(job, seconds: float = 30.0) -> record.Record:
    """The record of a job once it has ended and left the queue."""
    eventually(lambda: Slurm().state(job.folder).state.final, seconds)
    found = record.read(job.folder)
    eventually(lambda: slurm_queue.described(found.id)["JobState"] not in ("RUNNING", "COMPLETING"))
    return found


def ready(job, attempt: int = 0, seconds: float = 20.0) -> None:
    eventually(lambda: all((job.folder / f"ready-{attempt}-{rank}").exists() for rank in range(job.processes)), seconds)


def supervisor_log(job) -> str:
    return (job.folder / "logs" / "supervisor.log").read_text()


def test_two_nodes_do_a_job_with_a_log_for_each_rank(scripted, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    told = "print(rank, 'of', processes, os.environ['MY_TOKEN'], os.environ['MINE'], os.environ['SLURMD_NODENAME'])"
    job = scripted(told, nodes=2, secrets=("MY_TOKEN",), environment={"MINE": "x"}, options={"partition": "main"}, time_limit=5)
    Slurm().submit(job)
    found = ended(job)
    assert (found.state, found.exit_code) == (State.done, 0), supervisor_log(job)
    for rank in range(2):
        head, said, tail = (job.folder / "logs" / "0" / f"rank-{rank:04d}.log").read_text().splitlines()
        assert head.startswith(f"[alpaca-jax rank={rank} host=n{rank + 1} ") and "exit=0" in tail
        assert said == f"{rank} of 2 s3cret x n{rank + 1}"
    assert "s3cret" not in (job.folder / "job.json").read_text() + supervisor_log(job)
    assert Slurm().state(job.folder).id == found.id
    Slurm().submit(job)  # done: left alone
    assert record.read(job.folder).id == found.id


def test_a_failing_rank_ends_the_job_and_is_named_with_its_node(scripted):
    job = scripted("if rank == 1:\n    raise ValueError('broken')\n" + WAIT, nodes=2)
    start = time.monotonic()
    Slurm().submit(job)
    found = ended(job)
    assert time.monotonic() - start < 15
    assert (found.state, found.exit_code, len(found.attempts)) == (State.failed, 1, 1)
    assert "rank 1 on n2 ended with exit code 1 first" in supervisor_log(job) and "ValueError: broken" in supervisor_log(job)
    assert not running_below(job.folder)


def test_a_users_mistake_is_not_covered_by_how_its_peers_are_ended(scripted):
    job = scripted("if rank == 1:\n    sys.exit(2)\n" + WAIT, nodes=2)
    Slurm().submit(job)
    assert (ended(job).exit_code, len(record.read(job.folder).attempts)) == (2, 1)


def test_a_killed_rank_and_a_saved_one_are_started_again_in_the_same_allocation(scripted):
    lines = "if attempt == 0 and rank == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\nif attempt == 0:\n    time.sleep(60)\n"
    job = scripted(lines + "if attempt == 1:\n    time.sleep(rank)\n    sys.exit(200)", nodes=2)
    Slurm().submit(job)
    found = ended(job)
    assert (found.state, [attempt.exit_code for attempt in found.attempts]) == (State.done, [137, 200, 0]), supervisor_log(job)
    # Saving takes rank 1 longer, and srun has not ended it.
    assert "exit=200" in (job.folder / "logs" / "1" / "rank-0001.log").read_text()


def test_a_cancelled_job_saves_and_leaves_nothing(scripted):
    job = scripted(SAVES + READY + WAIT, nodes=2)
    Slurm().submit(job)
    ready(job)
    assert Slurm().state(job.folder).state is State.running
    with pytest.raises(UserError, match="queued or running already"):
        Slurm().submit(job)
    Slurm().cancel(job.folder)
    assert Slurm().state(job.folder).state is State.cancelled
    assert (job.folder / "got-0-1").read_text().startswith("SIGTERM") and len(record.read(job.folder).attempts) == 1
    assert not running_below(job.folder)


def test_one_cancelled_by_hand_and_one_that_waits(scripted, tmp_path):
    running = scripted(READY + WAIT, nodes=2, options={"exclusive": True})
    waiting = scripted(READY + WAIT, nodes=2, folder=tmp_path / "other")
    Slurm().submit(running)
    ready(running)
    Slurm().submit(waiting)
    assert Slurm().state(waiting.folder).state is State.queued
    Slurm().cancel(waiting.folder)
    assert Slurm().state(waiting.folder).state is State.cancelled and not record.read(waiting.folder).attempts
    subprocess.run(["scancel", record.read(running.folder).id], check=True)
    assert ended(running) and Slurm().state(running.folder).state is State.cancelled


def test_a_killed_supervisor_takes_its_ranks_along_and_the_job_is_lost(scripted):
    job = scripted(READY + WAIT, nodes=2)
    Slurm().submit(job)
    ready(job)
    os.kill(record.read(job.folder).launcher["pid"], signal.SIGKILL)
    eventually(lambda: not running_below(job.folder), 20)
    assert ended(job) and Slurm().state(job.folder).state is State.failed


def test_before_the_time_limit_and_when_preempted_it_saves_and_queues_itself_again(scripted):
    job = scripted(SAVES + READY + WAIT, nodes=2, options={"partition": "main", "exclusive": True})
    Slurm().submit(job)
    ready(job)
    urgent = subprocess.Popen(["srun", "--partition=urgent", "--nodes=2", "--exclusive", "sleep", "1"], stderr=subprocess.DEVNULL)
    eventually(lambda: record.read(job.folder).state is State.queued, 20)
    assert urgent.wait(30) == 0
    assert record.read(job.folder).attempts[0].exit_code == 200 and "queued again" in supervisor_log(job)
    eventually(lambda: Slurm().state(job.folder).state is State.queued)
    # Slurm lets a requeued job wait for two minutes; an administrator, and this test, may shorten that.
    subprocess.run(["scontrol", "update", f"jobid={record.read(job.folder).id}", "StartTime=now"], check=True)
    ready(job, attempt=1, seconds=30)
    id = record.read(job.folder).id
    subprocess.run(["scancel", "--batch", "--signal=USR1", id], check=True)  # what Slurm sends before the time limit
    eventually(lambda: record.read(job.folder).state is State.queued, 20)
    assert (job.folder / "got-1-1").read_text().startswith("SIGUSR1") and record.read(job.folder).id == id
    Slurm().cancel(job.folder)
    assert Slurm().state(job.folder).state is State.cancelled


def test_one_that_is_requeued_by_somebody_else_is_queued_and_not_cancelled(scripted):
    job = scripted(SAVES + READY + WAIT, nodes=2)
    Slurm().submit(job)
    ready(job)
    subprocess.run(["scontrol", "requeue", record.read(job.folder).id], check=True)
    # Slurm may end the supervisor before it has written that; the next start closes the attempt.
    eventually(lambda: Slurm().state(job.folder).state is State.queued, 20)
    assert (job.folder / "got-0-0").read_text() == (job.folder / "got-0-1").read_text() == "SIGTERM "
    subprocess.run(["scontrol", "update", f"jobid={record.read(job.folder).id}", "StartTime=now"], check=True)
    ready(job, attempt=1, seconds=30)
    assert record.read(job.folder).attempts[0].exit_code == 200
    Slurm().cancel(job.folder)
    assert Slurm().state(job.folder).state is State.cancelled


def test_where_a_requeue_is_not_allowed_it_is_submitted_again(scripted):
    job = scripted(SAVES + READY + WAIT, nodes=2)
    Slurm().submit(job)
    ready(job)
    before = record.read(job.folder).id
    subprocess.run(["scontrol", "update", f"jobid={before}", "Requeue=0"], check=True)
    subprocess.run(["scancel", "--batch", "--signal=USR1", before], check=True)
    ready(job, attempt=1)
    found = record.read(job.folder)
    assert found.id != before and found.state is State.running
    Slurm().cancel(job.folder)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"options": {"partition": "mian"}}, "partition=mian: this cluster has no such partition; did you mean main"),
        ({"options": {"partion": "main"}}, "'partion' is not an option of Slurm; did you mean partition"),
        ({"nodes": 9}, "Requested node configuration is not available"),
        ({"time_limit": 600}, "600 minutes exceed the 60 of the partition main"),
        ({"nodes": 2, "options": {"partition": "small"}}, "the partition small allows a job at most 1"),
        ({"secrets": ("NOT_SET_ANYWHERE",)}, "NOT_SET_ANYWHERE"),
    ],
)
def test_what_slurm_would_refuse_is_refused_before_anything_is_queued(scripted, settings, complaint):
    job = scripted("pass", **({"nodes": 2} | settings))
    with pytest.raises(UserError, match=complaint):
        Slurm().submit(job)
    assert not record.exists(job.folder) and slurm_queue.ask("squeue", "--noheader") == ""


def test_launch_slurm_sbatch_runs_a_job_by_hand(tmp_path):
    root = Path(__file__).parents[3]
    command = [
        "sbatch",
        "--parsable",
        "--nodes=2",
        f"--output={tmp_path}/out",
        root / "launch" / "slurm.sbatch",
        f"dir={tmp_path / 'run'}",
        "nope=1",
    ]
    subprocess.run(command, check=True, cwd=root, env=os.environ | {"PYTHON": sys.executable}, capture_output=True)
    eventually(lambda: record.exists(tmp_path / "run") and record.read(tmp_path / "run").state.final, 30)
    found = record.read(tmp_path / "run")
    assert (found.exit_code, found.job.nodes, found.job.command[:2]) == (2, 2, ("alpaca-jax", "train"))
    assert "nope: there is no such key" in (tmp_path / "out").read_text()


def test_the_command_line_queues_a_job(tmp_path, capsys):
    from alpaca_jax.cluster.__main__ import main

    assert main(["slurm", "--nodes", "2", "--option", "partition=nope", f"dir={tmp_path}"]) == 2
    assert "no such partition" in capsys.readouterr().err
    assert shutil.which("sbatch")
