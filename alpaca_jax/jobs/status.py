"""The state of each job of a sweep, and the table of it."""

import dataclasses
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from alpaca_jax.cluster import logs, record
from alpaca_jax.cluster.job import State, Status
from alpaca_jax.cluster.logs import End
from alpaca_jax.errors import Lost, UserError
from alpaca_jax.jobs import figures, queue
from alpaca_jax.jobs.backends import job_status
from alpaca_jax.jobs.sweep import Entry, Sweep

COLOURS = {State.done: "green", State.failed: "red", State.lost: "red", State.cancelled: "yellow", State.running: "cyan"}
INTERRUPTED = 130
NOT_STARTED = "not started"


@dataclasses.dataclass(frozen=True)
class Row:
    """One job and its current state."""

    entry: Entry
    status: Status
    age: float | None = None  # seconds since its newest attempt began
    step: int | None = None
    loss: float | None = None
    failure: End | None = None  # the rank that failed first in the newest attempt

    @property
    def exit_code(self) -> int:
        """The job's contribution to the sweep's exit code; 0 while nothing is wrong with it."""
        state, code = self.status.state, self.status.exit_code
        if state is State.failed:
            return code or 1
        return {State.cancelled: INTERRUPTED, State.lost: Lost.exit_code}.get(state, 0)

    @property
    def trouble(self) -> str:
        """What is wrong with the job, in a few words; "" if nothing is."""
        if self.failure is not None:
            return f"rank {self.failure.rank} on {self.failure.host}"
        return self.status.reason if self.status.state in (State.failed, State.lost, State.cancelled) else ""


def look(jobs: Sweep, entries: Sequence[Entry] | None = None) -> list[Row]:
    """Returns a row for each of the entries, by default for all of the sweep's."""
    waiting = queue.Queue(waiting=[]) if jobs.single else queue.read(jobs.folder)
    return [_row(jobs, entry, waiting) for entry in (jobs.entries if entries is None else entries)]


def table(rows: Sequence[Row]) -> Table:
    """Returns the rows as a table for a terminal."""
    swept = keys(rows)
    printed = Table(box=None, pad_edge=False, header_style="bold")
    printed.add_column("job")
    for key in swept:
        printed.add_column(Text(short(key, swept)), overflow="fold")
    printed.add_column("state")
    for name in ("attempt", "ranks", "step", "loss", "exit", "age"):
        printed.add_column(name, justify="right")
    printed.add_column("trouble", overflow="fold")
    for row in rows:
        status = row.status
        printed.add_row(
            Text(row.entry.name),
            *(Text(row.entry.swept.get(key, "")) for key in swept),
            Text(status.state.value, style=COLOURS.get(status.state, "")),
            _or_blank(status.attempt),
            str(row.entry.job.processes),
            _or_blank(row.step),
            "" if row.loss is None else f"{row.loss:.4f}",
            _or_blank(status.exit_code),
            "" if row.age is None else duration(row.age),
            Text(row.trouble),
        )
    return printed


def keys(rows: Sequence[Row]) -> list[str]:
    """Returns the swept keys of the rows, in order."""
    return list(dict.fromkeys(key for row in rows for key in row.entry.swept))


def short(key: str, others: Sequence[str]) -> str:
    """Returns the last part of a dotted key, or the whole key if another one has the same last part."""
    last = key.rpartition(".")[2]
    return last if [other.rpartition(".")[2] for other in others].count(last) == 1 else key


def duration(seconds: float) -> str:
    """Returns 42s, 5m, 3h12m or 2d4h."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 1:
        return f"{seconds:.0f}s"
    if hours < 1:
        return f"{minutes}m"
    return f"{hours}h{minutes % 60:02d}m" if days < 1 else f"{days}d{hours % 24}h"


def first_traceback(row: Row) -> str:
    """Returns the message of the rank that failed first, with its host; without one, the reason of the job's state."""
    if row.failure is not None:
        return logs.explain([row.failure])
    return row.status.reason


def _row(jobs: Sweep, entry: Entry, waiting: queue.Queue) -> Row:
    status = _status(jobs, entry, waiting)
    if not record.exists(entry.job.folder):
        return Row(entry, status)
    written = record.read(entry.job.folder)
    step, loss = figures.last_step(entry.dir)
    failure = None
    if status.state in (State.failed, State.lost, State.restarting) and status.attempt is not None and entry.name not in waiting.refused:
        failure = logs.first_failure(logs.ends(logs.folder_of(entry.job.folder, status.attempt), entry.job.processes))
    return Row(entry, status, figures.age(written), step, loss, failure)


def _status(jobs: Sweep, entry: Entry, waiting: queue.Queue) -> Status:
    folder = entry.job.folder
    if entry.name in waiting.waiting:
        if waiting.stopped:
            return Status(State.failed, exit_code=UserError.exit_code, reason=f"{NOT_STARTED}: {waiting.stopped}")
        if waiting.alive is not None or waiting.process is None:
            return Status(State.queued, reason="waits for its turn")
        if waiting.cancelled:
            return Status(State.cancelled, reason="cancelled before it began")
        return Status(State.lost, reason="the process that would have started it was killed; action=resume starts it")
    if entry.name in waiting.refused:
        return Status(State.failed, reason=waiting.refused[entry.name])
    if not record.exists(folder):
        return Status(State.lost, reason="it was never started; action=resume starts it")
    return job_status(jobs.runs_on(), folder)


def _or_blank(value: int | None) -> str:
    return "" if value is None else str(value)
