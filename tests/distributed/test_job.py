"""Real jobs of two processes: however one of them ends, the other ends too, within a bound, with the right code and a word about it."""

import os
import signal
import sys
import time

import pytest
from training import make_files, mapping
from two_processes import Job, scripted

from alpaca_jax import metrics
from alpaca_jax.checkpoint import steps
from tools.prove.tiny import overrides


def test_a_finished_job_ends_with_zero_everywhere(tmp_path):
    with scripted(tmp_path, "if step == 5: break") as job:
        assert job.codes(90) == [0, 0], job.logs()
        assert "2 processes (launcher), coordinator 127.0.0.1:" in job.log(0) and "1 x cpu" in job.log(0)
        assert "done 1" in job.log(1)


@pytest.mark.parametrize("failing", [0, pytest.param(1, marks=pytest.mark.prove)])
def test_an_exception_in_one_ends_both_and_says_where(tmp_path, failing):
    with scripted(tmp_path, f"assert not (rank == {failing} and step == 4), 'a wrong turn'") as job:
        job.wait_for(tmp_path / "three")
        assert job.codes(15) == [1, 1], job.logs()
    own, other = job.log(failing), job.log(1 - failing)
    assert "Traceback" in own and "AssertionError: a wrong turn" in own and f"rank {failing} on {os.uname().nodename}: " in own
    assert f"rank {failing} on {os.uname().nodename} failed and ends the job: AssertionError: a wrong turn" in other
    assert "Traceback" not in other  # the echo of the peer's end in the collective would hide what happened


def test_a_process_that_is_killed_ends_the_other(tmp_path):
    with scripted(tmp_path) as job:
        job.wait_for(tmp_path / "three")
        job.processes[1].kill()
        assert job.codes(10) == [201, -signal.SIGKILL], job.logs()
    assert f"rank 1 on {os.uname().nodename} (process {job.processes[1].pid}) was lost" in job.log(0)


def test_a_stopped_process_ends_the_other_within_the_heartbeat(tmp_path):
    with scripted(tmp_path) as job:
        job.wait_for(tmp_path / "three")
        os.kill(job.processes[1].pid, signal.SIGSTOP)
        assert job.processes[0].wait(25) in (-signal.SIGABRT, 201)  # the heartbeat of the test is 10 s
    assert f"rank 1 on {os.uname().nodename} (process {job.processes[1].pid}) has been silent" in job.log(0)


def test_a_step_that_never_ends_is_shown_and_ends_both(tmp_path):
    with scripted(tmp_path, "time.sleep(1000 * (rank == 1 and step == 4))", stuck=0.05) as job:
        job.wait_for(tmp_path / "three")
        assert job.codes(20) == [201, 201], job.logs()
    assert "stuck for" in job.logs() and "the stack of each thread" in job.logs()


@pytest.mark.slow
def test_sigterm_to_one_stops_the_training_of_both_at_one_step_and_the_next_start_goes_on(tmp_path):
    files = make_files(tmp_path)
    changes = {
        "mesh": {"data": 2},
        "log_every": 1000,
        "steps": 120,
        "checkpoint": {"every_steps": 20},
        "distributed": {"heartbeat_seconds": 20, "join_minutes": 1},
    }
    run = tmp_path / "run"
    command = [sys.executable, "-W", "ignore", "-m", "alpaca_jax", "train", "model=tiny", *overrides(mapping(files, run, **changes))]
    with Job(tmp_path, command) as job:
        deadline = time.monotonic() + 120
        while not steps(run / "train" / "checkpoints"):
            assert time.monotonic() < deadline and job.processes[0].poll() is None, job.logs()
            time.sleep(0.05)
        os.kill(job.processes[1].pid, signal.SIGTERM)
        assert job.codes(30) == [200, 200], job.logs()
    stopped = steps(run / "train" / "checkpoints")[-1]
    for rank in range(2):
        assert f"stopped by SIGTERM on rank 1 ({os.uname().nodename}) at step {stopped} of 120" in job.log(rank)
    assert metrics.read(run / "train" / "metrics.jsonl")[-1]["step"] == stopped < 120

    with Job(tmp_path, [*command, "distributed.stuck_minutes=10"]) as job:
        assert job.codes(120) == [0, 0], job.logs()
    assert f"resuming from the checkpoint of step {stopped}" in job.log(0)
    assert steps(run / "train" / "checkpoints")[-1] == 120
