"""How long does a conversion take, and how much memory? Converts 1.1 B random bfloat16 weights (TinyLlama's sizes) in all directions.

Ours: `alpaca-jax convert` from a sharded Hugging Face folder to an Orbax checkpoint, to GGUF, to another Hugging Face folder, and back from
the first two, with the same dtype. Peer: transformers, `from_pretrained` and `save_pretrained` of the same folder (without its
tokenizer). For comparison, `cp -r` of the folder. Each turn is its own process, imports included, and its clock stops when its output
is on disk: ours waits for that before it reports success, transformers and cp leave it to the system. Also reported: the seconds until
the process ended, and those of a process that only imports. The source is in the system's cache if memory has room.
Finally prints one JSON line: `ours` and `peer` are Hugging Face to Hugging Face. Run from the root: python -m tools.benchmark.convert
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

from alpaca_jax.model.architecture import Architecture
from tools.benchmark import process, shapes, turns
from tools.benchmark.process import Spent

PYTHON = (sys.executable, "-W", "ignore")
PEER = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
model.save_pretrained(sys.argv[2], max_shard_size="5GB")
"""
IMPORTS = {"ours": "import alpaca_jax.convert.run", "transformers": "import torch, transformers; transformers.AutoModelForCausalLM"}
SOURCE, PLAIN, THEIRS, COPY = "hf", "Hugging Face to Hugging Face", "transformers, Hugging Face to Hugging Face", "cp -r"
# Published sizes, and a small model for trying this out.
TINYLLAMA = Architecture(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_layers=22,
    num_heads=32,
    num_kv_heads=4,
    head_dim=64,
)
SMALL = Architecture(
    vocab_size=32000,
    hidden_size=512,
    intermediate_size=1408,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
)
SHAPES = {"tiny": SMALL, "1b": TINYLLAMA, "7b": shapes.LLAMA_7B}
ROOM = 3.3  # times the model's size: the source, its conversion, and the conversion back


class Contestant(NamedTuple):
    """A command that converts `source` to `target`, both names in the scratch folder."""

    name: str
    source: str
    target: str
    command: tuple[str, ...]


def main() -> None:
    """Creates the model, runs all contestants alternately, prints the table and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--warmups", type=int, default=1, help="turns that don't count")
    parser.add_argument("--folder", type=Path, help="where to create the scratch folder (default: the system's); it is removed at the end")
    arguments = parser.parse_args()
    size = 2 * SHAPES[arguments.shape].num_parameters
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="convert-") as name:
        folder = Path(name)
        check_room(folder, ROOM * size)
        turns.console.print(f"writing {size / 1e9:.2f} GB of random weights")
        process.run([*PYTHON, "-m", "tools.benchmark.random_model", folder / SOURCE, "--shape", arguments.shape], folder)
        spent = in_turns(contestants(folder), folder, arguments.turns, arguments.warmups)
    report(spent, arguments.shape, size)


def check_room(folder: Path, needed: float) -> None:
    """Exits if the disk has not enough free bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(f"{needed / 1e9:.1f} GB are needed, and the disk of {folder} has {free / 1e9:.1f} GB left: give another --folder")


def contestants(folder: Path) -> list[Contestant]:
    """All contestants, in the order of a turn."""
    peer = (*PYTHON, "-c", PEER, str(folder / SOURCE), str(folder / "theirs"))
    return [
        *(Contestant(f"{name}: imports only", SOURCE, "none", (*PYTHON, "-c", code)) for name, code in IMPORTS.items()),
        ours("Hugging Face to Orbax", folder, SOURCE, "made.orbax"),
        ours("Orbax to Hugging Face", folder, "made.orbax", "back"),
        ours("Hugging Face to GGUF", folder, SOURCE, "made.gguf"),
        ours("GGUF to Hugging Face", folder, "made.gguf", "back"),
        ours(PLAIN, folder, SOURCE, "again"),
        Contestant(THEIRS, SOURCE, "theirs", peer),
        Contestant(COPY, SOURCE, "copy", ("cp", "-r", str(folder / SOURCE), str(folder / "copy"))),
    ]


def ours(name: str, folder: Path, source: str, target: str) -> Contestant:
    """A conversion through our command line."""
    settings = [f"source={folder / source}", f"target={folder / target}", f"dir={folder / 'run'}"]
    return Contestant(name, source, target, (*PYTHON, "-m", "alpaca_jax", "convert", *settings))


def in_turns(every: Sequence[Contestant], folder: Path, number: int, warmups: int) -> dict[str, list[Spent]]:
    """The cost of each contestant's turns. Outputs that are no longer read are deleted at once, off the clock."""
    spent: dict[str, list[Spent]] = {each.name: [] for each in every}
    for turn in range(-warmups, number):
        for place, each in enumerate(every):
            cost = process.run(each.command, folder)
            clear(folder, {SOURCE, *(later.source for later in every[place + 1 :])})
            if turn >= 0:
                spent[each.name].append(cost)
            label = f"turn {turn + 1} of {number}" if turn >= 0 else "warm-up"
            turns.console.print(f"{label}, {each.name}: {cost.seconds:.2f} s, on disk {cost.synced:.2f} s, {cost.peak / 1e6:,.0f} MB")
    return spent


def clear(folder: Path, kept: set[str]) -> None:
    """Deletes everything in a folder except the names in `kept`."""
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def report(spent: dict[str, list[Spent]], shape: str, size: int) -> None:
    """Prints the table and the JSON line."""
    figures = {name: summary(costs) for name, costs in spent.items()}
    copied = figures[COPY]["on_disk_s"]
    rows = [
        [name, f"{each['on_disk_s']:.2f}", f"{each['seconds']:.2f}", f"{each['on_disk_s'] / copied:.2f}", f"{each['peak_mb']:,.0f}"]
        for name, each in figures.items()
    ]
    title = f"{size / 1e9:.2f} GB of bfloat16: medians of {len(spent[COPY])}"
    turns.table(title, ["", "s, on disk", "s, ended", "x cp", "peak MB"], rows)
    mine, theirs = figures[PLAIN], figures[THEIRS]
    more: dict[str, Any] = {
        "shape": shape,
        "gigabytes": round(size / 1e9, 3),
        "turns": len(spent[COPY]),
        "ratio_until_ended": round(theirs["seconds"] / mine["seconds"], 3),
        "paths": figures,
    }
    packages = ("jax", "orbax-checkpoint", "safetensors", "transformers", "torch")
    print(turns.result("convert", mine["on_disk_s"], theirs["on_disk_s"], "s", packages, **more))


def summary(costs: Sequence[Spent]) -> dict[str, float]:
    """The median seconds, and the highest memory of any turn."""
    return {
        "on_disk_s": round(statistics.median(each.synced for each in costs), 3),
        "seconds": round(statistics.median(each.seconds for each in costs), 3),
        "peak_mb": round(max(each.peak for each in costs) / 1e6),
    }


if __name__ == "__main__":
    main()
