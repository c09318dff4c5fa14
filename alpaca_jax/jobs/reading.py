"""Shows the ranks' logs of jobs: the first traceback, the end of a log, or a log as it grows."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from alpaca_jax.cluster import logs
from alpaca_jax.cluster.rank import log_of, values
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import status
from alpaca_jax.jobs.status import Row
from alpaca_jax.jobs.sweep import Sweep

Say = Callable[[str], None]
LONGEST = 1 << 24  # bytes of a log that are read for its last lines


def show(jobs: Sweep, rank: int | None, lines: int, say: Say) -> None:
    """Prints for each job the first traceback if it failed, else the last lines of `rank` (by default the lead)."""
    rows = status.look(jobs)
    _check_rank(rows, rank)
    for row in rows:
        if len(rows) > 1:
            say(f"--- job {row.entry.name}: {row.status.state.value}")
        if row.status.attempt is None:
            say(f"no log yet: {row.status.reason or row.status.state.value}")
        elif rank is None and row.failure is not None:
            say(status.first_traceback(row))
        else:
            _tail(row, rank or 0, lines, say)


def follow(jobs: Sweep, rank: int | None, lines: int, poll_seconds: float, say: Say) -> None:
    """Prints what `rank` (by default every rank) of every job writes, until the jobs have ended."""
    rows = status.look(jobs)
    _check_rank(rows, rank)
    followers: dict[tuple[str, int, int], logs.Follower] = {}
    while True:
        rows = status.look(jobs)
        for row in rows:
            for number in range(row.entry.job.processes) if rank is None else [rank]:
                _print_new(row, number, lines, followers, say, len(rows) > 1)
        if all(row.status.state.final for row in rows):
            return
        time.sleep(poll_seconds)


def _print_new(row: Row, rank: int, lines: int, followers: dict[tuple[str, int, int], logs.Follower], say: Say, several: bool) -> None:
    if row.status.attempt is None:
        return
    key = (row.entry.name, row.status.attempt, rank)
    begins = key not in followers
    if begins:
        followers[key] = logs.Follower(_log(row, rank))
    prefix = f"job {row.entry.name} {_prefix(row, rank)}" if several else _prefix(row, rank)
    text = followers[key].read().splitlines()
    for line in text[-lines:] if begins else text:
        say(prefix + line)


def _tail(row: Row, rank: int, lines: int, say: Say) -> None:
    log = _log(row, rank)
    if not log.exists():
        say(f"{log} doesn't exist (yet): the rank hasn't begun, or the log stayed on its host")
        return
    shown = [line for line in logs.tail(log, LONGEST) if values(line) is None]
    for line in shown[-lines:]:
        say(_prefix(row, rank) + line)


def _log(row: Row, rank: int) -> Path:
    assert row.status.attempt is not None
    return log_of(logs.folder_of(row.entry.job.folder, row.status.attempt), rank)


def _prefix(row: Row, rank: int) -> str:
    """The rank and host that write a line, for jobs of several ranks."""
    if row.entry.job.processes == 1:
        return ""
    log = _log(row, rank)
    host = "?"
    if log.exists():
        with open(log, errors="replace") as file:
            host = (values(file.readline(1000)) or {}).get("host", "?")
    return f"rank {rank} {host} | "


def _check_rank(rows: Sequence[Row], rank: int | None) -> None:
    most = max(row.entry.job.processes for row in rows)
    if rank is not None and rank >= most:
        raise UserError(f"rank={rank}: the job has {most} rank{'s' if most > 1 else ''}, counted from 0")
