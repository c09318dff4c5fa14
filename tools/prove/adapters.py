"""Does an adapter learn what all weights learn, in less memory? SmolLM2-135M on the laptop's records: all weights, LoRA, QLoRA.

Each of the three experiments is trained from nothing and scored on the 24 records that all of them hold out. The held-out loss of both
adapters must lie within 0.03 nats of that of all weights, their compiled steps take less than a half and a third of its memory, and the
weights in a checkpoint less than 5 MB. Exits 1 otherwise.
Run from the root, after `alpaca-jax generate experiment=laptop`: python -m tools.prove.adapters
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"

from alpaca_jax import __main__ as cli
from alpaca_jax import metrics
from alpaca_jax.train.setup import prepare, settled
from tools.benchmark import turns

STEPS = 18
MEMORY = {"laptop": 1.0, "laptop_lora": 1 / 2, "laptop_qlora": 1 / 3}  # the most, as a share of the first's
NATS, BYTES = 0.03, 5_000_000


class Result(NamedTuple):
    """Of one experiment: held-out loss (nats a token), compiled peak and host peak (bytes), bytes of a checkpoint's weights, seconds."""

    loss: float
    compiled: int
    host: int
    saved: int
    seconds: float


def main() -> None:
    """Trains the three, prints the table and compares."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path, default=Path("runs/laptop/records"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = {experiment: measured(experiment, arguments.records, Path(name)) for experiment in MEMORY}
    rows = [
        [name, f"{r.loss:.4f}", f"{r.compiled / 1e6:,.0f}", f"{r.host / 1e6:,.0f}", f"{r.saved / 1e6:.2f}", f"{r.seconds / 60:.1f}"]
        for name, r in results.items()
    ]
    turns.table("SmolLM2-135M", ["", "held-out loss", "compiled peak MB", "host peak MB", "checkpoint's weights MB", "minutes"], rows)
    problems = [problem for name, result in results.items() for problem in compare(name, result, results["laptop"])]
    for problem in problems or ["within 0.03 nats, a half and a third of the memory, and 5 MB"]:
        turns.console.print(problem)
    sys.exit(1 if problems else 0)


def compare(name: str, result: Result, whole: Result) -> list[str]:
    """What is out of bounds, in words."""
    problems = []
    if result.loss > whole.loss + NATS:
        problems.append(f"{name}: a held-out loss of {result.loss:.4f}, {result.loss - whole.loss:.4f} above that of all weights")
    if result.compiled > MEMORY[name] * whole.compiled:
        problems.append(f"{name}: its step takes {result.compiled / whole.compiled:.0%} of the memory")
    if name != "laptop" and result.saved >= BYTES:
        problems.append(f"{name}: the weights of a checkpoint take {result.saved:,} bytes")
    return problems


def measured(experiment: str, records: Path, folder: Path) -> Result:
    """Trains an experiment in a process of its own."""
    words = [f"experiment={experiment}", f"dir={folder / experiment}", f"data.records={records.absolute()}", f"evaluate_every={STEPS}"]
    turns.console.print(f"train {' '.join(words)}")
    began = time.monotonic()
    subprocess.run([sys.executable, "-W", "ignore", "-m", "alpaca_jax", "train", *words], check=True)
    seconds = time.monotonic() - began
    lines = metrics.read(folder / experiment / "train" / "metrics.jsonl")
    saved = folder / experiment / "train" / "checkpoints" / str(STEPS) / "params"
    return Result(
        loss=next(line["heldout_loss"] for line in reversed(lines) if "heldout_loss" in line),
        compiled=compiled_peak(words),
        host=max(line["host_peak_bytes"] for line in lines if line.get("host_peak_bytes")),
        saved=sum(path.stat().st_size for path in saved.rglob("*") if path.is_file()),
        seconds=seconds,
    )


def compiled_peak(words: list[str]) -> int:
    """The bytes that the compiled step takes: its arguments, results and temporary arrays; what it donates counts once."""
    command = cli._parse(["train", *words])
    setup = prepare(settled(cli._config(command, cli._compose(command))))
    sizes = setup.assembly.compile(setup.batches.rows, setup.batches.row_length(0), setup.batches.slots).program.memory_analysis()
    donated = sizes.alias_size_in_bytes
    return int(sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - donated)


if __name__ == "__main__":
    main()
