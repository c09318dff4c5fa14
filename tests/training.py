"""Shared by the tests of train: a tiny model, its byte tokenizer, forty records, and the verb as a process."""

import json
import os
import subprocess
import sys
import time

from alpaca_jax import metrics
from alpaca_jax.config import parse
from alpaca_jax.train.config import Config
from tools.prove.tiny import SIZES, overrides, write_tokenizer

STEPS = 60


def make_files(folder):
    """A folder with a byte tokenizer and forty records."""
    write_tokenizer(folder / "tokenizer")
    records = [{"instruction": f"Say {n}.", "input": "", "output": f"{n} it is."} for n in range(40)]
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def mapping(files, folder, **changes):
    """The settings of a run on one device, nested."""
    return {
        "dir": str(folder),
        "steps": STEPS,
        "model": {"architecture": SIZES, "tokenizer": str(files / "tokenizer")},
        "data": {"records": str(files / "records.jsonl"), "cache": str(files / "cache"), "heldout": 8, "max_length": 256},
        "batch": {"examples": 4, "sequence_length": 256},
        "optimizer": {"learning_rate": 1e-2},
        "mesh": {"data": 1},
        "hardware": {"peak_tflops": 0.1},
        "checkpoint": {"every_steps": 4},
    } | changes


def config(files, folder, **changes):
    """The same as the verb's Config."""
    return parse(Config, mapping(files, folder, **changes))


def command(files, folder, **changes):
    """The command that trains with these settings."""
    return [sys.executable, "-W", "ignore", "-m", "alpaca_jax", "train", "model=tiny", *overrides(mapping(files, folder, **changes))]


def finish(files, folder, **changes):
    """Runs the verb to its end."""
    done = subprocess.run(command(files, folder, **changes), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def stopped(files, folder, after, number):
    """The exit code of a run that receives signal `number` once it has taken `after` steps."""
    process = subprocess.Popen(command(files, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(metrics.read(folder / "train" / "metrics.jsonl")) < after:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, number)
    return process.wait(60)


def losses(folder):
    """(step, loss) of each step in metrics.jsonl."""
    lines = metrics.read(folder / "train" / "metrics.jsonl")
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]
