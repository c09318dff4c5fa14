"""A run of two processes: the numbers of one, and a checkpoint that either goes on from."""

import json
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
from training import losses, mapping

from alpaca_jax import checkpoint

STEPS, HALF = 6, 3
SCRIPT = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
if int(sys.argv[3]) > 1:
    jax.distributed.initialize("127.0.0.1:" + sys.argv[1], int(sys.argv[3]), int(sys.argv[2]))
from alpaca_jax.config import parse
from alpaca_jax.train.config import Config
from alpaca_jax.train.run import run
run(parse(Config, json.loads(sys.argv[5])))
"""


def train(files, folder, processes, devices, data):
    """Runs the verb in so many processes, each with so many devices, over a mesh whose data axis has the given size."""
    settings = mapping(files, folder, steps=STEPS, mesh={"data": data}, checkpoint={"every_steps": HALF}, batch={"examples": 4, "rows": 4})
    settings["batch"]["sequence_length"] = 256
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, str(port), str(rank), str(processes), str(devices), json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        for process in started:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
    finally:
        for process in started:
            process.kill()


def undo_half(folder):
    """Leaves the run as it was when the first half was saved."""
    shutil.rmtree(folder / "train" / "checkpoints" / str(STEPS))
    (folder / "train" / "summary.json").unlink()


def values(folder):
    assert [step for step, _ in losses(folder)] == list(range(1, STEPS + 1))
    return np.array([loss for _, loss in losses(folder)])


def test_two_processes_are_one_run_and_go_on_from_one_anothers_checkpoints(files, tmp_path):
    train(files, tmp_path / "one", processes=1, devices=1, data=1)
    expected, params = values(tmp_path / "one"), checkpoint.restore_params(tmp_path / "one" / "train" / "checkpoints", STEPS)

    train(files, tmp_path / "two", processes=2, devices=1, data=2)
    np.testing.assert_allclose(values(tmp_path / "two"), expected, rtol=1e-6)

    undo_half(tmp_path / "two")  # saved by two, taken up by one on another mesh
    train(files, tmp_path / "two", processes=1, devices=2, data=2)
    np.testing.assert_allclose(values(tmp_path / "two"), expected, rtol=1e-6)

    undo_half(tmp_path / "one")  # and the other way round
    train(files, tmp_path / "one", processes=2, devices=1, data=2)
    np.testing.assert_allclose(values(tmp_path / "one"), expected, rtol=1e-6)
    found = checkpoint.restore_params(tmp_path / "one" / "train" / "checkpoints", STEPS)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), found, params)
