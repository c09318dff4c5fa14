"""The verb train on a tiny model: it goes on from where it was killed, bit for bit, and refuses what it cannot do."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from alpaca_jax import checkpoint, metrics
from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.train.config import Config
from alpaca_jax.train.run import run

SIZES = {"vocab_size": 258, "hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
SIZES |= {"max_positions": 512, "tie_embeddings": True}
STEPS = 60


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a tokenizer of bytes and forty records."""
    folder = tmp_path_factory.mktemp("files")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    records = [{"instruction": f"Say {n}.", "input": "", "output": f"{n} it is."} for n in range(40)]
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def mapping(files, folder, **changes):
    return {
        "dir": str(folder),
        "steps": STEPS,
        "model": {"architecture": SIZES, "tokenizer": str(files / "tokenizer")},
        "data": {"records": str(files / "records.jsonl"), "cache": str(files / "cache"), "heldout": 8, "max_length": 256},
        "batch": {"examples": 4, "sequence_length": 256},
        "optimizer": {"learning_rate": 1e-2},
        "mesh": {"data": 1},
        "hardware": {"peak_tflops": 0.1},
        "checkpoint": {"every_steps": 2},
    } | changes


def config(files, folder, **changes):
    return parse(Config, mapping(files, folder, **changes))


def overrides(tree, prefix=""):
    """The mapping as `key=value` words of a command line."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value}"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The job of one device that the other processes of these tests are too."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: first)
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)


@pytest.fixture(scope="module")
def straight(files, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    _finish(files, folder)
    return folder


def _command(files, folder):
    return [sys.executable, "-W", "ignore", "-m", "alpaca_jax", "train", "model=tiny", *overrides(mapping(files, folder))]


def _finish(files, folder):
    subprocess.run(_command(files, folder), check=True, capture_output=True, timeout=300)


def _stopped(files, folder, after, number):
    """The exit code of a run that gets the signal once it has taken `after` steps."""
    process = subprocess.Popen(_command(files, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(metrics.read(folder / "train" / "metrics.jsonl")) < after:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, number)
    return process.wait(60)


def _losses(folder):
    return [(line["step"], line["loss"]) for line in metrics.read(folder / "train" / "metrics.jsonl")]


def test_killed_stopped_and_started_again_equals_the_straight_run_bit_for_bit(files, straight, tmp_path):
    assert _stopped(files, tmp_path, 8, signal.SIGKILL) == -signal.SIGKILL
    assert 0 < checkpoint.steps(tmp_path / "train" / "checkpoints")[-1] < STEPS
    assert _stopped(files, tmp_path, 20, signal.SIGTERM) == 200
    assert checkpoint.steps(tmp_path / "train" / "checkpoints")[-1] < STEPS
    _finish(files, tmp_path)
    assert _losses(tmp_path) == _losses(straight)
    expected, found = (checkpoint.restore_params(folder / "train" / "checkpoints", STEPS) for folder in (straight, tmp_path))
    assert jax.tree.all(jax.tree.map(np.array_equal, expected, found))


def test_it_learns_and_writes_down_what_it_did(files, straight):
    summary = json.loads((straight / "train" / "summary.json").read_text())
    losses = [loss for _, loss in _losses(straight)]
    assert [step for step, _ in _losses(straight)] == list(range(1, STEPS + 1))
    assert losses[-1] < losses[0] - 0.5 and summary["final_loss"] == losses[-1]
    assert summary["steps"] == STEPS and summary["examples"] == 32
    last = metrics.read(straight / "train" / "metrics.jsonl")[-1]
    assert last["tokens_real"] == summary["tokens_real"] > 0
    assert 0 < last["utilisation"] <= 1 and last["mfu"] > 0 and last["slots_per_second"] >= last["tokens_per_second"]


def test_started_again_when_done_it_does_nothing(files, straight):
    before = (straight / "train" / "metrics.jsonl").read_bytes()
    assert run(config(files, straight))["steps"] == STEPS
    assert (straight / "train" / "metrics.jsonl").read_bytes() == before


def test_another_config_in_the_same_folder_is_refused_by_key(files, straight):
    with pytest.raises(UserError, match=r"optimizer.learning_rate: 0.01 there, 0.02 now"):
        run(config(files, straight, optimizer={"learning_rate": 2e-2}))


def test_logging_and_checkpoints_are_free_to_change(files, straight):
    changed = config(files, straight, checkpoint={"keep": 5}, log_every=3)
    assert run(changed)["steps"] == STEPS


def test_held_out_loss_is_measured_along_the_way(files, tmp_path):
    run(config(files, tmp_path, steps=2, evaluate_every=1))
    lines = metrics.read(tmp_path / "train" / "metrics.jsonl")
    assert [line["step"] for line in lines if "heldout_loss" in line] == [1, 2]


def test_held_out_loss_needs_held_out_records(files, tmp_path):
    data = mapping(files, tmp_path)["data"] | {"heldout": 0}
    with pytest.raises(UserError, match="give data.heldout"):
        run(config(files, tmp_path, data=data, evaluate_every=1))


def test_a_loss_that_is_not_finite_stops_the_run(files, tmp_path):
    optimizer = {"learning_rate": 1e38, "warmup": 0.0, "clip": None}
    with pytest.raises(UserError, match=r"the loss of step \d+ is nan"):
        run(config(files, tmp_path, steps=5, optimizer=optimizer))


def test_random_weights_need_a_tokenizer_that_fits(files, tmp_path):
    model = mapping(files, tmp_path)["model"]
    with pytest.raises(UserError, match="model.architecture and model.tokenizer"):
        run(config(files, tmp_path, model={"architecture": SIZES}))
    with pytest.raises(UserError, match="give model.architecture.vocab_size=258"):
        run(config(files, tmp_path, model=model | {"architecture": SIZES | {"vocab_size": 100}}))


def test_a_mesh_that_does_not_fit_is_said_before_any_work(files, tmp_path):
    with pytest.raises(UserError, match="mesh.data=3"):
        run(config(files, tmp_path, mesh={"data": 3}))
    assert not (tmp_path / "train" / "model").exists()


def test_every_setting_is_checked(files, tmp_path):
    with pytest.raises(UserError, match="epochs"):
        config(files, tmp_path, steps=None, epochs=0.0)
    with pytest.raises(UserError, match="microbatches"):
        config(files, tmp_path, microbatches=2, batch={"examples": 4, "rows": 3})
    assert dataclasses.is_dataclass(config(files, tmp_path))
