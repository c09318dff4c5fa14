"""The verb train with dir=gs://: killed and started again it equals the run on a disk, and what it leaves is read from there."""

import json
import subprocess
import time

import jax
import numpy as np
import pytest
import training
from training import losses

from alpaca_jax import checkpoint, metrics, storage
from alpaca_jax.config import parse
from alpaca_jax.convert.config import Config as ConvertConfig
from alpaca_jax.convert.run import run as convert
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.train.run import run

STEPS = 24
CHANGES = {"steps": STEPS, "checkpoint": {"every_steps": 4}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return training.make_files(tmp_path_factory.mktemp("files"))


def begun(files, folder):
    """The verb as a process that has saved a checkpoint and goes on."""
    process = subprocess.Popen(training.command(files, folder, **CHANGES), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    saved = storage.at(f"{folder}/train/checkpoints")
    while not checkpoint.steps(saved):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.prove
def test_killed_and_started_again_equals_the_run_on_a_disk(files, gs, tmp_path):
    process = begun(files, gs)
    process.kill()
    process.communicate()
    reached = checkpoint.steps(storage.at(f"{gs}/train/checkpoints"))[-1]
    assert [line["step"] for line in metrics.read(f"{gs}/train/metrics.jsonl")][:reached] == list(range(1, reached + 1))
    assert reached < STEPS
    training.finish(files, gs, **CHANGES)
    training.finish(files, tmp_path / "run", **CHANGES)
    check_equal(gs, tmp_path / "run", STEPS)


def check_equal(remote, local, steps):
    """A run in the store is the run on the disk: its losses, its weights, and its files."""
    lines = [(line["step"], line["loss"]) for line in metrics.read(f"{remote}/train/metrics.jsonl") if "loss" in line]
    assert lines == losses(local) and len(lines) == steps
    found, expected = (checkpoint.restore_params(f"{run}/train/checkpoints", steps) for run in (remote, local))
    assert jax.tree.all(jax.tree.map(np.array_equal, expected, found))
    names = {name for name in storage.objects(storage.at(f"{remote}/train")) if not name.startswith(("checkpoints/", "model/", "events/"))}
    assert names == {"config.yaml", "metrics.jsonl", "summary.json"}
    assert any(name.startswith("events/") for name in storage.objects(storage.at(f"{remote}/train")))
    assert json.loads((storage.at(remote) / "train" / "summary.json").read_bytes())["steps"] == steps


def test_a_run_there_equals_the_run_on_a_disk_and_is_read_from_there(files, gs, tmp_path, monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: first)
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    for place in (gs, tmp_path / "run"):
        run(training.config(files, place, steps=4))
    check_equal(gs, tmp_path / "run", 4)
    assert run(training.config(files, gs, steps=4))["steps"] == 4

    from_gs, from_disk = pretrained.open(f"{gs}/train"), pretrained.open(str(tmp_path / "run" / "train"))
    path = ("embed", "weight")
    np.testing.assert_array_equal(from_gs.read(path), from_disk.read(path))
    target = tmp_path / "hf"
    convert(parse(ConvertConfig, {"dir": str(tmp_path), "source": gs, "target": str(target)}))
    assert (target / "model.safetensors").is_file() and (target / "tokenizer.json").is_file()


def test_another_config_in_the_same_folder_is_refused(files, gs):
    (storage.at(gs) / "train" / "config.yaml").write_bytes(b"seed: 7\n")
    done = subprocess.run(training.command(files, gs), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "seed: 7 there, 0 now" in done.stderr and "Traceback" not in done.stderr


def test_what_can_not_be_written_there_is_said_before_any_work(files):
    with pytest.raises(UserError, match="writes to a disk"):
        training.config(files, "gs://bkt/run", export="bfloat16")


def test_a_folder_that_is_no_run_is_refused(gs):
    with pytest.raises(UserError, match="nothing is there"):
        pretrained.open(gs)
    (storage.at(gs) / "config.json").write_bytes(b"{}")
    with pytest.raises(UserError, match="not a training run"):
        pretrained.open(gs)
