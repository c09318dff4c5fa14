"""Does a 7B model survive conversion bit for bit, in little memory, and a kill in the middle? LLaMA-7B's sizes, random bfloat16 weights.

`alpaca-jax convert` takes a Hugging Face folder to GGUF and back, to an Orbax checkpoint and back, and to another Hugging Face folder; the
last conversion is killed (SIGKILL) once a shard is complete and the next has begun, and restarted. Each tensor's sha256 must equal the
source's; the restart must not rewrite the shards of the first start; and no process may hold more than 1.5 GB, or, with Orbax, 1.5 GB
more than the model. Needs three times the model's 13.5 GB on disk. Prints a table and one JSON line, and exits 1 if a claim fails.
Run from the root: python -m tools.prove.convert_7b
"""

import argparse
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

from tools.benchmark import process, turns
from tools.benchmark.convert import PYTHON, ROOM, SHAPES, check_room, clear
from tools.benchmark.process import Spent

STREAMED = 1.5e9  # bytes that a process may hold
BLOCK = 1 << 24
PATIENCE = 600.0  # seconds to wait for the moment of the kill
# The verb as the command line runs it, with shards so small that even a small model has several.
SHARDED = """
import functools, sys
from alpaca_jax import __main__
from alpaca_jax.formats.huggingface import export as huggingface_export
huggingface_export.export = functools.partial(huggingface_export.export, shard_bytes=int(sys.argv[1]))
sys.exit(__main__.main(sys.argv[2:]))
"""
SHARDS = 5


class Row(NamedTuple):
    """One conversion: its cost, its memory limit, and the tensors that differ from the source (None: it left no folder to compare)."""

    name: str
    spent: Spent
    bar: float
    differing: list[str] | None

    @property
    def good(self) -> bool:
        return self.spent.peak < self.bar and not self.differing


def main() -> None:
    """Creates the model, converts it in all directions, prints the results and judges them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="7b", help="use a smaller one as a rehearsal")
    parser.add_argument("--folder", type=Path, help="where to create the scratch folder (default: the system's); it is removed at the end")
    arguments = parser.parse_args()
    size = 2 * SHAPES[arguments.shape].num_parameters
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="convert-") as name:
        folder = Path(name)
        check_room(folder, ROOM * size)
        turns.console.print(f"writing {size / 1e9:.2f} GB of random weights")
        process.run([*PYTHON, "-m", "tools.benchmark.random_model", folder / "hf", "--shape", arguments.shape], folder)
        expected = digests(folder / "hf")
        rows = [
            *there_and_back("GGUF", "made.gguf", folder, expected, STREAMED),
            *there_and_back("Orbax", "made.orbax", folder, expected, size + STREAMED),
        ]
        again, problems = killed(folder, expected, size // SHARDS)
    report([*rows, again], problems, arguments.shape, size, len(expected))


def there_and_back(other: str, name: str, folder: Path, expected: dict[str, str], bar: float) -> list[Row]:
    """Converts Hugging Face to another format, and the result back to Hugging Face; deletes both."""
    there = process.run([*PYTHON, *convert(folder, "hf", name)], folder)
    print_cost(f"Hugging Face to {other}", there)
    back = process.run([*PYTHON, *convert(folder, name, "back")], folder)
    print_cost(f"{other} to Hugging Face", back)
    clear(folder, {"hf", "back"})
    differing = compare(folder / "back", expected)
    clear(folder, {"hf"})
    return [Row(f"Hugging Face to {other}", there, bar, None), Row(f"{other} to Hugging Face", back, bar, differing)]


def convert(folder: Path, source: str, target: str) -> tuple[str, ...]:
    """The arguments of one conversion, after the interpreter."""
    return "-m", "alpaca_jax", *verb(folder, source, target)


def verb(folder: Path, source: str, target: str) -> tuple[str, ...]:
    """The verb and its settings."""
    return "convert", f"source={folder / source}", f"target={folder / target}", f"dir={folder / 'run'}"


def killed(folder: Path, expected: dict[str, str], shard: int) -> tuple[Row, list[str]]:
    """Hugging Face to Hugging Face, killed in the middle and restarted: the restart, and any problems."""
    target, partial = folder / "again", folder / ".again.partial"
    command = [*PYTHON, "-c", SHARDED, str(shard), *verb(folder, "hf", "again")]
    with tempfile.TemporaryFile() as said:
        started = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **process.OFFLINE})
        if not came(partial, started):
            started.kill()
            said.seek(0)
            end = said.read().decode(errors="replace")[-3000:]
            raise SystemExit(f"the conversion ended with {started.wait()} before it could be killed, or {PATIENCE:.0f} s went by:\n{end}")
        started.send_signal(signal.SIGKILL)
        assert started.wait() == -signal.SIGKILL
    problems = ["a killed conversion left something under the target's name"] if target.exists() else []
    before = times(partial)
    turns.console.print(f"killed when {len(before)} of its shards were whole")
    spent = process.run(command, folder)
    print_cost("Hugging Face to Hugging Face, started again", spent)
    after = times(target)
    if anew := [name for name, moment in before.items() if after.get(name) != moment]:
        problems.append(f"the second start wrote {', '.join(anew)} again")
    if not 0 < len(before) < len(after):
        problems.append(f"the kill came too late or too early: {len(before)} of {len(after)} shards were whole")
    name = f"Hugging Face to Hugging Face, behind {len(before)} of {len(after)} shards"
    return Row(name, spent, STREAMED, compare(target, expected)), problems


def came(partial: Path, started: subprocess.Popen) -> bool:
    """Returns True once a shard is complete and another has begun; False if that never happens."""
    deadline = time.monotonic() + PATIENCE
    while started.poll() is None and time.monotonic() < deadline:
        if any(partial.glob("model-*.safetensors")) and any(size_of(path) for path in partial.glob(".*.safetensors")):
            return True
        time.sleep(0.001)
    return False


def size_of(path: Path) -> int:
    """The bytes of a file, 0 if it has just been renamed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def times(folder: Path) -> dict[str, int]:
    """When each complete shard of a folder was last written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("model-*.safetensors")}


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of each tensor's bytes, dtype and shape, over all safetensors files of a folder, read without our own code."""
    hashes: dict[str, str] = {}
    with ThreadPoolExecutor(turns.num_cores()) as pool:
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                entries = json.loads(opened.read(length))
            entries.pop("__metadata__", None)
            assert not hashes.keys() & entries.keys(), file
            hashes |= zip(entries, pool.map(functools.partial(digest, file, 8 + length), entries.values()), strict=True)
    return hashes


def digest(file: Path, start: int, entry: dict) -> str:
    """The sha256 of an entry of a file whose tensors begin at byte `start`."""
    first, end = entry["data_offsets"]
    sha256 = hashlib.sha256(f"{entry['dtype']} {entry['shape']} ".encode())
    with file.open("rb") as opened:
        opened.seek(start + first)
        for place in range(first, end, BLOCK):
            sha256.update(opened.read(min(BLOCK, end - place)))
    return sha256.hexdigest()


def compare(folder: Path, expected: dict[str, str]) -> list[str]:
    """The tensors that are missing, unexpected, or not equal bit for bit."""
    actual = digests(folder)
    return sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))


def print_cost(name: str, spent: Spent) -> None:
    """Prints that a conversion is done."""
    turns.console.print(f"{name}: {spent.synced:.1f} s, {spent.peak / 1e6:,.0f} MB")


def report(rows: Sequence[Row], problems: list[str], shape: str, size: int, tensors: int) -> None:
    """Prints the table, the problems and the JSON line; exits."""
    cells = [
        [row.name, f"{row.spent.synced:.1f}", f"{row.spent.peak / 1e6:,.0f}", f"{row.bar / 1e6:,.0f}", outcome(row, tensors)]
        for row in rows
    ]
    turns.table(f"{shape}: {size / 1e9:.2f} GB of bfloat16", ["", "seconds", "peak MB", "allowed MB", "tensors"], cells)
    problems = problems + [f"{row.name}: {row.differing[:5]} differ" for row in rows if row.differing]
    problems += [f"{row.name}: {row.spent.peak / 1e6:,.0f} MB" for row in rows if row.spent.peak >= row.bar]
    for problem in problems or ["all tensors equal the source's bit for bit, memory stays within limits, and a killed conversion resumes"]:
        turns.console.print(problem)
    paths = {row.name: {"seconds": round(row.spent.synced, 1), "peak_mb": round(row.spent.peak / 1e6)} for row in rows}
    line = {"name": "convert_7b", "shape": shape, "gigabytes": round(size / 1e9, 3), "passed": not problems, "paths": paths}
    packages = ("jax", "orbax-checkpoint", "safetensors", "gguf")
    print(json.dumps(line | {"hardware": turns.hardware(), "versions": turns.versions(packages), "date": time.strftime("%Y-%m-%d")}))
    sys.exit(1 if problems else 0)


def outcome(row: Row, tensors: int) -> str:
    """The result of the comparison, in words."""
    if row.differing is None:
        return "see the way back"
    return f"{tensors} the same" if not row.differing else f"{len(row.differing)} of {tensors} DIFFER"


if __name__ == "__main__":
    main()
