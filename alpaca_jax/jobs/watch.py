"""Watches jobs until they have ended: a live table on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Callable, Sequence

from rich.live import Live

from alpaca_jax.cluster.job import State
from alpaca_jax.jobs.status import Row, table
from alpaca_jax.terminal import Console


def watch(look: Callable[[], Sequence[Row]], poll_seconds: float, console: Console) -> Sequence[Row]:
    """Returns the rows once every job has ended; KeyboardInterrupt leaves the jobs as they are."""
    if not console.is_terminal:
        return _lines(look, poll_seconds, console)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            rows = look()
            live.update(table(rows), refresh=True)
            if all(row.status.state.final for row in rows):
                return rows
            time.sleep(poll_seconds)


def _lines(look: Callable[[], Sequence[Row]], poll_seconds: float, console: Console) -> Sequence[Row]:
    known: dict[str, tuple[State, int | None]] = {}
    while True:
        rows = look()
        for row in rows:
            now = (row.status.state, row.status.attempt)
            if known.get(row.entry.name) != now:
                known[row.entry.name] = now
                console.print(line(row), highlight=False, markup=False, soft_wrap=True)
        if all(row.status.state.final for row in rows):
            return rows
        time.sleep(poll_seconds)


def line(row: Row) -> str:
    """Returns one job in a line: its name, its swept settings, its state and what is wrong with it."""
    swept = "".join(f" {key}={value}" for key, value in row.entry.swept.items())
    attempt = f" (attempt {row.status.attempt})" if row.status.attempt else ""
    trouble = f": {row.trouble}" if row.trouble else ""
    return f"job {row.entry.name}{swept}: {row.status.state.value}{attempt}{trouble}"
