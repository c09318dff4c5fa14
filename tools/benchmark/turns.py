"""Common to all benchmarks: contestants run alternately, and a JSON line gives the result, the hardware and the versions."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)


def in_turns(runs: Mapping[str, Callable[[], object]], turns: int, warmups: int = 1) -> dict[str, list[float]]:
    """The seconds of each contestant's turns; all take a turn before any takes the next. Warm-ups don't count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-warmups, turns):
        for name, run in runs.items():
            taken = timed(run)
            if turn >= 0:
                seconds[name].append(taken)
            console.print(f"{f'turn {turn + 1} of {turns}' if turn >= 0 else 'warm-up'}, {name}: {taken:.3f} s")
    return seconds


def timed(run: Callable[[], object]) -> float:
    """The seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rates(seconds: Mapping[str, Sequence[float]], amount: float) -> dict[str, float]:
    """The rate per second of each contestant, from its median turn of `amount`."""
    return {name: amount / statistics.median(taken) for name, taken in seconds.items()}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table whose first column is text and whose others are numbers."""
    grid = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number else "left")
    for row in rows:
        grid.add_row(*map(str, row))
    console.print(grid)


def result(name: str, ours: float, peer: float | None, unit: str, packages: Sequence[str], device: str = "cpu", **more: Any) -> str:
    """The JSON line. `ratio` says how many times better ours is: peer / ours if the unit is a time ("s"), else ours / peer."""
    ratio = None if not peer else round(peer / ours if unit == "s" else ours / peer, 3)
    line = {"name": name, "ours": round(ours, 3), "peer": None if peer is None else round(peer, 3), "ratio": ratio, "unit": unit}
    return json.dumps(line | more | {"hardware": hardware(device), "versions": versions(packages), "date": time.strftime("%Y-%m-%d")})


def hardware(device: str = "cpu") -> str:
    """The accelerator, if any, the processor, and the cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    cores = f"{num_cores()} cores of {processor}"
    return cores if device == "cpu" else f"{device}, {cores}"


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The installed version of each package; None if it isn't installed."""
    return {name: _version(name) for name in packages}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
