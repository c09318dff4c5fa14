"""Does memory stay flat as the number of records grows? A tenth of them, then all, go through the builder and into 50 batches.

Synthetic instruction records are written as JSONL shards. Each phase is its own process whose memory is sampled, children included:
building the store (`load_examples` on an empty cache), then opening it and building the first 50 batches of 128 examples in rows of 2048.
Resident memory is reported in total and without the pages of mapped files, which the kernel reclaims when it needs memory. Exits 1
if the latter grows by more than 30% and 200 MB from a tenth of the records to all. Run from the root:
python -m tools.prove.million_records
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import psutil

from tools.benchmark import turns
from tools.prove import tiny

SHARD = 50_000  # records
BATCHES, EXAMPLES, LENGTH = 50, 128, 2048
SHARE, MEGABYTES = 0.3, 200.0
PHASES = ("build", "batches")


def main() -> None:
    """Writes the records, runs the phases on a tenth and on all, prints the table and judges it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        run_phase(arguments.phase, arguments.folder)
        return
    rows, peaks = [], {}
    for number in (arguments.records // 10, arguments.records):
        with tempfile.TemporaryDirectory() as name:
            seconds = turns.timed(lambda number=number, name=name: write(Path(name), number))
            turns.console.print(f"{number:,} records written in {seconds:.0f} s")
            for phase in PHASES:
                seconds, resident, own = sampled(phase, Path(name))
                peaks[phase, number] = own
                rows.append([f"{number:,} records, {phase}", f"{seconds:.1f}", f"{number / seconds:,.0f}", f"{resident:.0f}", f"{own:.0f}"])
                turns.console.print(f"{rows[-1][0]}: {seconds:.0f} s, peak {own:.0f} MB")
    columns = ["phase", "seconds", "records/s", "peak MB", "peak MB without mapped files"]
    turns.table(f"{arguments.records:,} records, and a tenth of them", columns, rows)
    sys.exit(1 if [phase for phase in PHASES if grown(phase, peaks, arguments.records)] else 0)


def grown(phase: str, peaks: dict[tuple[str, int], float], number: int) -> bool:
    """Whether a phase's memory grows with the records; prints the answer."""
    few, all_of_them = peaks[phase, number // 10], peaks[phase, number]
    grows = all_of_them - few > MEGABYTES and all_of_them > few * (1 + SHARE)
    turns.console.print(f"{phase}: {few:.0f} MB, then {all_of_them:.0f} MB with ten times the records: {'NOT flat' if grows else 'flat'}")
    return grows


def write(folder: Path, number: int) -> None:
    """Writes `number` records as JSONL shards, and the tokenizer."""
    tiny.write_tokenizer(folder / "tokenizer")
    (folder / "records").mkdir()
    for start in range(0, number, SHARD):
        with (folder / "records" / f"{start:08}.jsonl").open("w") as shard:
            shard.writelines(json.dumps(tiny.record(each)) + "\n" for each in range(start, min(start + SHARD, number)))


def sampled(phase: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, peak resident MB, and peak MB without mapped files, of a phase in its own process and its children."""
    command = [sys.executable, "-W", "ignore", "-m", "tools.prove.million_records", "--phase", phase, "--folder", str(folder)]
    start, resident, own = time.monotonic(), 0, 0
    process = psutil.Popen(command)
    while process.poll() is None:
        memories = [memory for each in family(process) if (memory := memory_of(each)) is not None]
        resident, own = max(resident, sum(rss for rss, _ in memories)), max(own, sum(private for _, private in memories))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{phase} ended with {process.returncode}")
    return time.monotonic() - start, resident / 1e6, own / 1e6


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory_of(process: psutil.Process) -> tuple[int, int] | None:
    """Resident bytes, in total and without file pages; None if the process has just ended."""
    try:
        memory = process.memory_info()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    return memory.rss, memory.rss - getattr(memory, "shared", 0)


def run_phase(phase: str, folder: Path) -> None:
    """The work of a child process; the phase `batches` opens the store left by `build`."""
    from alpaca_jax.data import builder
    from alpaca_jax.data.config import BatchConfig, DataConfig
    from alpaca_jax.data.pipeline import make_batches
    from alpaca_jax.tokenizer import Tokenizer

    config = DataConfig(cache=str(folder / "cache"), max_length=512)
    data = builder.load_examples(config, folder / "records", Tokenizer.load(folder / "tokenizer"))
    if phase == "batches":
        batches = make_batches(data.examples["train"], BatchConfig(examples=EXAMPLES, sequence_length=LENGTH), seed=0)
        count = sum(1 for _ in batches.stream(0, min(BATCHES, batches.steps_per_epoch)))
        turns.console.print(f"{count} batches of {batches.rows} rows, the first {batches.fill(0):.1%} full")


if __name__ == "__main__":
    main()
