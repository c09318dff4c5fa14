"""Does a repeatedly killed run end as if nothing had happened? SIGKILL at 20 moments, some of them in the middle of a save.

A tiny model trains and saves at every step. Each start is killed: during startup, right after some step, or during a save.
The last start runs to the end. The losses in metrics.jsonl and the final weights must equal the undisturbed run's bit for bit.
Exits 1 if they don't. Run from the root: python -m tools.prove.kill_loop, with settings of the run behind it, as in adapter=lora.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import jax
import numpy as np

from alpaca_jax import checkpoint, metrics
from tools.benchmark import turns
from tools.prove import tiny

KINDS = ("in a save", "after a step", "at the start")
PATIENCE = 240.0  # seconds to wait for the moment of a kill


def main() -> None:
    """Runs undisturbed, runs with kills, prints the table and compares."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps-a-kill", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher", action="store_true", help="a first run is the objective's teacher, as in objective=distill")
    parser.add_argument("settings", nargs="*", help="of the run, as in adapter=lora adapter.dropout=0.1")
    arguments = parser.parse_args()
    steps = arguments.steps_a_kill * (arguments.kills + 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.write_tokenizer(folder / "tokenizer")
        (folder / "records.jsonl").write_text("".join(json.dumps(tiny.record(number)) + "\n" for number in range(64)))
        if arguments.teacher:
            finish(folder, "teacher", 20, ["seed=1"])
            arguments.settings.append(f"objective.teacher={folder / 'teacher' / 'train'}")
        turns.console.print(f"the undisturbed run of {steps} steps")
        finish(folder, "straight", steps, arguments.settings)
        rows = kill_again_and_again(folder, "killed", steps, arguments)
        turns.console.print("the last start, to the end")
        finish(folder, "killed", steps, arguments.settings)
        turns.table(f"{len(rows)} kills", ["kill", "moment", "steps written", "last whole step", "left half-saved", "seconds"], rows)
        differences = compare(folder / "straight", folder / "killed", steps)
    in_saves = sum(bool(row[4]) for row in rows)
    turns.console.print(f"{in_saves} of {len(rows)} kills left a save half-done")
    for difference in differences or ["losses and final weights equal the undisturbed run's, bit for bit"]:
        turns.console.print(difference)
    sys.exit(1 if differences else 0)


def command(folder: Path, name: str, steps: int, more: Sequence[str]) -> list[str]:
    """The command line, the same for all starts."""
    settings = {
        "dir": folder / name,
        "steps": steps,
        "model": {"architecture": tiny.SIZES, "tokenizer": folder / "tokenizer"},
        "data": {"records": folder / "records.jsonl", "cache": folder / "cache", "max_length": 256},
        "batch": {"examples": 4, "sequence_length": 256},
        "optimizer": {"learning_rate": 1e-2},
        "mesh": {"data": 1},
        "hardware": {"peak_tflops": 0.1},
        "checkpoint": {"every_steps": 1, "keep": 2},
    }
    return [sys.executable, "-W", "ignore", "-m", "alpaca_jax", "train", "model=tiny", *tiny.overrides(settings), *more]


def finish(folder: Path, name: str, steps: int, more: Sequence[str]) -> None:
    """Runs to the last step."""
    done = subprocess.run(command(folder, name, steps, more), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the run ended with {done.returncode}:\n{done.stderr[-2000:]}")


def kill_again_and_again(folder: Path, name: str, steps: int, arguments: argparse.Namespace) -> list[list[Any]]:
    """Kills start after start, each a few steps later; returns the rows of the table."""
    chance = random.Random(arguments.seed)
    saved = folder / name / "train" / "checkpoints"
    rows: list[list[Any]] = []
    for kill in range(arguments.kills):
        kind = KINDS[2] if kill % 7 == 6 else KINDS[kill % 2]
        step = kill * arguments.steps_a_kill + chance.randrange(1, arguments.steps_a_kill + 1)
        began = time.monotonic()
        words = command(folder, name, steps, arguments.settings)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(moment(kind, step, folder / name, chance), process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        partial = ", ".join(path.name for path in saved.glob(".*.partial"))
        whole = next((each for each in reversed(checkpoint.steps(saved)) if checkpoint.check(saved / str(each)) is None), None)
        lines = metrics.read(folder / name / "train" / "metrics.jsonl")
        rows.append([kill + 1, kind, lines[-1]["step"] if lines else 0, whole or "none", partial, f"{time.monotonic() - began:.1f}"])
        turns.console.print(f"kill {kill + 1}: {kind}, steps written {rows[-1][2]}, last whole step {whole or 'none'}")
    return rows


def moment(kind: str, step: int, run: Path, chance: random.Random) -> Callable[[], bool]:
    """A function that returns True once the moment has come."""
    if kind == "at the start":
        end = time.monotonic() + chance.uniform(0.5, 8.0)
        return lambda: time.monotonic() > end
    pause = chance.uniform(0.0, 0.05)

    def come() -> bool:
        if len(metrics.read(run / "train" / "metrics.jsonl")) < step:
            return False
        if kind == "in a save":
            return any((run / "train" / "checkpoints").glob(".*.partial/*"))
        time.sleep(pause)
        return True

    return come


def wait_for(come: Callable[[], bool], process: subprocess.Popen) -> None:
    """Returns when the moment has come; exits if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not come():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SystemExit(f"the run ended with {process.poll()} before it could be killed, or {PATIENCE:.0f} s went by")
        time.sleep(0.002)


def compare(straight: Path, killed: Path, steps: int) -> list[str]:
    """The differences between the two runs."""
    differences = []
    one, other = ([(line["step"], line["loss"]) for line in metrics.read(run / "train" / "metrics.jsonl")] for run in (straight, killed))
    if [step for step, _ in one] != list(range(1, steps + 1)):
        differences.append(f"the undisturbed run wrote {len(one)} lines for {steps} steps")
    differences += [
        f"losses differ: {mine} undisturbed, {theirs} killed" for mine, theirs in zip(one, other, strict=False) if mine != theirs
    ][:5]
    if len(one) != len(other):
        differences.append(f"{len(one)} lines of metrics undisturbed, {len(other)} killed")
    weights = [checkpoint.restore_params(run / "train" / "checkpoints", steps) for run in (straight, killed)]
    if not jax.tree.all(jax.tree.map(np.array_equal, *weights)):
        differences.append("the final weights differ")
    return differences


if __name__ == "__main__":
    main()
