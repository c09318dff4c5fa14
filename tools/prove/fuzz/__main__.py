"""Reads thousands of damaged inputs, some of each verb, and prints how they ended.

Run from the root: python -m tools.prove.fuzz [--count 300] [--only records] [--seed N --show]
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools.prove.fuzz import trial
from tools.prove.fuzz.inputs import Input, inputs


@dataclasses.dataclass
class Row:
    """The trials of one input."""

    input: Input
    ends: Counter[str] = dataclasses.field(default_factory=Counter)
    faults: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0


def main() -> int:
    """Returns 1 if an input was neither read nor refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="damaged copies of each input")
    parser.add_argument("--only", default="", help="a part of the input's name")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--show", action="store_true", help="print every message and traceback")
    arguments = parser.parse_args()
    seeds = range(arguments.count) if arguments.seed is None else [arguments.seed]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            _try(input, seeds, Path(folder), arguments.show)
            for input in inputs(Path(folder) / "whole")
            if arguments.only in f"{input.verb} {input.name}"
        ]
    for row in rows:
        for fault in row.faults:
            print(fault)
    Console(width=110).print(_table(rows))
    return int(any(row.faults for row in rows))


def _try(input: Input, seeds: Sequence[int], folder: Path, show: bool) -> Row:
    row, begin = Row(input), time.monotonic()
    whole = trial.run(input, None, folder)
    if whole.end != "read":
        row.faults.append(f"{input.verb} {input.name}, undamaged: {whole.end}\n{whole.text[-1500:]}")
    for seed in seeds:
        ended = trial.run(input, seed, folder)
        row.slowest = max(row.slowest, ended.seconds)
        fault = ended.end not in ("read", "refused")
        row.ends["fault" if fault else ended.end] += 1
        line = f"{input.verb} {input.name} --seed {seed}, {ended.file}: {ended.end}\n{ended.text.strip()[-1500 if show else -300 :]}"
        if fault:
            row.faults.append(line)
        elif show:
            print(line)
    row.seconds = time.monotonic() - begin
    print(f"{input.verb} {input.name}: {dict(row.ends)} in {row.seconds:.0f} s", file=sys.stderr)
    return row


def _table(rows: Sequence[Row]) -> Table:
    table = Table("verb", "input", "damaged", "read", "refused", "faults", "slowest, CPU s", "seconds", title="Damaged inputs")
    for row in rows:
        ends = (row.ends.total(), row.ends["read"], row.ends["refused"], row.ends["fault"])
        table.add_row(row.input.verb, row.input.name, *map(str, ends), f"{row.slowest:.1f}", f"{row.seconds:.0f}")
    total = sum((row.ends for row in rows), Counter())
    table.add_section()
    table.add_row("", "", str(total.total()), str(total["read"]), str(total["refused"]), str(total["fault"]), "", "")
    return table


if __name__ == "__main__":
    sys.exit(main())
