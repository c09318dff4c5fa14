"""What the proof of many hosts rests on: that it sees a difference, a step too many, a process that is left, and that its fault is one."""

import json
import os
import subprocess
import sys

import numpy as np
import psutil
import pytest

from tools.prove.many_hosts_job import Failed, Ground, Trial, difference, fault, gone, left_running

SHOW = "from alpaca_jax.train import loop; print('told', flush=True); loop.beat(2); loop.beat(3)"


def test_losses_that_differ_or_are_missing_fail():
    losses = np.array([5.0, 4.0])
    assert difference(losses, losses) == 0.0
    for found in (losses * (1 + 2e-6), losses[:1]):
        with pytest.raises(Failed):
            difference(found, losses)


def test_a_step_that_was_written_twice_fails(tmp_path):
    (tmp_path / "run" / "train").mkdir(parents=True)
    trial = Trial(Ground(tmp_path, None), "run", [])
    log = tmp_path / "run" / "train" / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3)))
    assert trial.losses().tolist() == [1.0] * 3 and trial.step == 3
    log.write_text(log.read_text() + json.dumps({"step": 3, "loss": 1.0}) + "\n")
    with pytest.raises(Failed, match="not 1, 2, 3"):
        trial.losses()


def test_a_process_that_is_left_is_seen_until_it_has_ended(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"dir={tmp_path}"]) as process:
        assert len(left_running(tmp_path)) == 1 and not gone([psutil.Process(process.pid)])
        process.kill()
        process.wait()
    assert left_running(tmp_path) == []


@pytest.mark.parametrize(("rank", "word", "raises"), [(1, "x", True), (0, "x", False), (1, "y", False)])
def test_the_fault_is_on_its_rank_and_command_alone(tmp_path, rank, word, raises):
    environment = os.environ | fault(3, tmp_path / "mended", "x") | {"ALPACA_JAX_PROCESS": str(rank)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SHOW, word], env=environment, capture_output=True, text=True)
    assert "told" in done.stdout and ("the fault of step 3" in done.stderr) == raises == bool(done.returncode)
