"""A run of several processes: the batches and numbers of one, and a checkpoint that any number goes on from."""

import json
import os
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from training import losses, mapping

from alpaca_jax import checkpoint, metrics

STEPS, HALF, ROWS = 6, 3, 4
EVALUATED = {
    "evaluate_every": STEPS,
    "samples": {"prompts": ["Say 3.", "Say 12, please."], "max_tokens": 6},
    "suites": {"basics": {"own": {"categories": ["facts"], "limit": 2, "max_tokens": 4, "metric": "probability"}}},
    "early_stopping": {"metric": "suites/basics/score"},
}
SCRIPT = """
import json, os, sys
import jax
import numpy as np
rank, processes, devices = map(int, sys.argv[2:5])
jax.config.update("jax_num_cpu_devices", devices)
if processes > 1:
    jax.distributed.initialize("127.0.0.1:" + sys.argv[1], processes, rank)
from alpaca_jax.config import parse
from alpaca_jax.sharding import Layout
from alpaca_jax.train.config import Config
from alpaca_jax.train.run import run
place, placed = Layout.place, []
def noted(self, batch, rows, *axes):
    arrays = place(self, batch, rows, *axes)
    pieces = [(name, piece) for name, array in arrays.items() for piece in array.addressable_shards]
    placed.append({f"{name} {piece.index[0].indices(rows)[0]}": np.asarray(piece.data) for name, piece in pieces})
    return arrays
Layout.place = noted
settings = json.loads(sys.argv[5])
run(parse(Config, settings))
steps = {f"{step} {name}": value for step, pieces in enumerate(placed) for name, value in pieces.items()}
np.savez(os.path.join(settings["dir"], f"placed-{rank}"), **steps)
"""


def train(files, folder, processes, devices=1, **more):
    """Runs the verb in so many processes, each with so many devices, over a mesh whose data axis is all of them."""
    batch = {"examples": 4, "rows": ROWS, "sequence_length": 256}
    mesh = {"data": processes * devices}
    settings = mapping(files, folder, steps=STEPS, mesh=mesh, checkpoint={"every_steps": HALF}, batch=batch, **more)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Nobody measures speed here, and compiling is most of what such a process does.
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, str(port), str(rank), str(processes), str(devices), json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
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


def half_of(run, folder):
    """A copy of the run as it was when the first half was saved."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "train" / "checkpoints" / str(STEPS))
    (folder / "train" / "summary.json").unlink()
    return folder


def values(folder):
    assert [step for step, _ in losses(folder)] == list(range(1, STEPS + 1))
    return np.array([loss for _, loss in losses(folder)])


def evaluated(folder):
    """The held-out loss and the suite's score after the last step, and the answers to the prompts."""
    lines = metrics.read(folder / "train" / "metrics.jsonl")
    (found,) = [(line["heldout_loss"], line["suites/basics/score"]) for line in lines if "heldout_loss" in line]
    assert json.loads((folder / "train" / "summary.json").read_text())["best_step"] == STEPS
    return found, json.loads((folder / "train" / "samples" / f"{STEPS}.json").read_text())


def batches(folder, processes):
    """The global batches, put together from the pieces that the processes have put on their devices."""
    pieces = {}
    for rank in range(processes):
        with np.load(folder / f"placed-{rank}.npz") as own:
            assert len(own.files) == len({*own.files} - {*pieces}), "two processes have the same rows"
            pieces |= own
    names = {name.split()[1] for name in pieces}
    rows = sorted({int(name.split()[2]) for name in pieces})
    return {name: np.stack([np.concatenate([pieces[f"{step} {name} {row}"] for row in rows]) for step in range(STEPS)]) for name in names}


@pytest.fixture(scope="module")
def one(files, tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    train(files, folder, processes=1, **EVALUATED)
    return folder


@pytest.mark.slow
def test_two_processes_are_one_run_and_one_goes_on_from_their_checkpoint(files, tmp_path, one):
    expected = values(one)

    train(files, tmp_path / "two", processes=2, **EVALUATED)
    np.testing.assert_allclose(values(tmp_path / "two"), expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, batches(tmp_path / "two", 2), batches(one, 1))
    assert evaluated(tmp_path / "two")[0] == pytest.approx(evaluated(one)[0], rel=1e-5)
    assert evaluated(tmp_path / "two")[1] == evaluated(one)[1]

    mixed = half_of(tmp_path / "two", tmp_path / "two, one")  # saved by two, taken up by one on another mesh
    train(files, mixed, processes=1, devices=2)
    np.testing.assert_allclose(values(mixed), expected, rtol=1e-6)


@pytest.mark.prove
def test_two_processes_go_on_from_the_checkpoint_of_one(files, tmp_path, one):
    expected, params = values(one), checkpoint.restore_params(one / "train" / "checkpoints", STEPS)
    mixed = half_of(one, tmp_path / "one, two")
    train(files, mixed, processes=2)
    np.testing.assert_allclose(values(mixed), expected, rtol=1e-6)
    found = checkpoint.restore_params(mixed / "train" / "checkpoints", STEPS)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), found, params)


@pytest.mark.prove
def test_four_processes_are_one_run_too_and_their_checkpoint_goes_on_with_fewer(files, tmp_path, one):
    expected, four = values(one), tmp_path / "four"
    train(files, four, processes=4)
    np.testing.assert_allclose(values(four), expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, batches(four, 4), batches(one, 1))
    mixed = [half_of(four, tmp_path / f"four, {fewer}") for fewer in ("one", "two")]
    for fewer, folder in enumerate(mixed, start=1):
        train(files, folder, processes=fewer)
        np.testing.assert_allclose(values(folder), expected, rtol=1e-6)
