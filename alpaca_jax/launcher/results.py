"""The results of a sweep: a table, `sweep.json`, and a page with the objective against the swept settings."""

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from alpaca_jax import report, rundir
from alpaca_jax.cluster import record
from alpaca_jax.cluster.job import State
from alpaca_jax.jobs import figures, mistake, status
from alpaca_jax.jobs.status import COLOURS, Row
from alpaca_jax.jobs.sweep import Sweep
from alpaca_jax.launcher import combinations
from alpaca_jax.launcher.objective import WORDS
from alpaca_jax.metrics.direction import Mode
from alpaca_jax.report import Block, Code, Section, Series

PAGE = "report.html"
BEST = " (best)"


def result(row: Row, objective: str) -> dict[str, Any]:
    """Returns the result of an ended job for sweep.json: state, exit code, objective, hours, dollars, and the rank that failed first."""
    entry, state = row.entry, row.status.state
    written = record.read(entry.job.folder) if record.exists(entry.job.folder) else None
    failure = row.failure
    return {
        "state": state.value,
        "exit_code": 0 if state is State.done else row.exit_code,
        "objective": figures.objective(entry.dir, objective) if state is State.done else None,
        "hours": None if written is None else round(figures.hours(written), 6),
        "dollars": figures.summary(entry.dir).get("dollars") if state is State.done else None,
        "step": row.step,
        "loss": row.loss,
        "first_failure": None if failure is None else {"rank": failure.rank, "host": failure.host, "log": str(failure.log)},
        "reason": row.trouble,
    }


def failures(rows: Sequence[Row]) -> list[str]:
    """Returns what failed and why, for a terminal: a message that several jobs share is told once."""
    lines: list[str] = []
    told: dict[str, str] = {}  # the job that a message was told of
    not_started = [row for row in rows if row.status.reason.startswith(status.NOT_STARTED)]
    for row in rows:
        if not row.exit_code or row in not_started or not (message := status.first_traceback(row)):
            continue
        heading, entry = f"job {row.entry.name} ({combinations.title(row.entry)})", row.entry
        essence = mistake.essence(mistake.mistake_of(entry), entry)
        if essence and essence in told:
            lines.append(f"{heading}: the same as job {told[essence]}")
        else:
            told[essence] = entry.name
            lines.append(f"{heading}: {message}")
    if not_started:
        names = ", ".join(row.entry.name for row in not_started)
        why = not_started[0].status.reason.removeprefix(f"{status.NOT_STARTED}: ")
        lines.append(f"{status.NOT_STARTED}: job {names}, since {why} (hydra.launcher.keep_going=true starts them all the same)")
    return lines


def table(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """Returns the results as a table for a terminal, in the order of the jobs."""
    swept = status.keys(rows)
    printed = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("job", *(status.short(key, swept) for key in swept), "state"):
        printed.add_column(Text(name), overflow="fold")
    for name in (sweep.objective, "exit", "hours", "dollars"):
        printed.add_column(Text(name), justify="right")
    printed.add_column("trouble", overflow="fold")
    first = best(rows, sweep.mode)
    for row in rows:
        cells = _cells(row, swept, row is first)
        state = Text(cells[len(swept) + 1], style=COLOURS.get(row.status.state, ""))
        printed.add_row(*map(Text, cells[: len(swept) + 1]), state, *map(Text, cells[len(swept) + 2 :]))
    return printed


def write(sweep: Sweep, rows: Sequence[Row]) -> None:
    """Writes sweep.json and the page."""
    sweep.write()
    rundir.write_atomic(sweep.folder / PAGE, _page(sweep, rows))


def best(rows: Sequence[Row], mode: Mode) -> Row | None:
    """Returns the job with the smallest or largest objective, the first of equal ones, None if none has one."""
    scored = [row for row in rows if _objective(row) is not None]
    sign = 1 if mode == "min" else -1
    return min(scored, key=lambda row: sign * (_objective(row) or 0.0), default=None)


def _page(sweep: Sweep, rows: Sequence[Row]) -> str:
    swept = status.keys(rows)
    done = sum(row.status.state is State.done for row in rows)
    head = ["job", *swept, "state", sweep.objective, "exit code", "hours", "dollars", "trouble"]
    numbers = range(len(swept) + 2, len(swept) + 6)
    first = best(rows, sweep.mode)
    sections = [Section("Results", [report.Table(head, [_cells(row, swept, row is first) for row in rows], numbers=numbers)])]
    plots = [plot for key in swept if (plot := _plot(sweep, rows, key)) is not None]
    if plots:
        sections.append(Section("What was swept", plots))
    failures: list[Block] = [Code(status.first_traceback(row), f"job {row.entry.name}") for row in rows if row.failure is not None]
    if failures:
        sections.append(Section("What failed", failures, "The first rank to fail in each job, and its message."))
    subtitle = f"{done} of {len(rows)} jobs are done."
    if first is not None:
        subtitle += f" Job {first.entry.name} has the {WORDS[sweep.mode]} {sweep.objective}, {_objective(first):.4f}."
    return report.render(f"Sweep {sweep.folder.name}", subtitle, sections, [f"alpaca-jax {sweep.verb}", f"written {record.now()}"])


def _plot(sweep: Sweep, rows: Sequence[Row], key: str) -> report.Plot | None:
    """The objective against one swept key, if its values are numbers."""
    points = []
    for row in rows:
        x, y = _number(row.entry.swept.get(key, "")), _objective(row)
        if x is not None and y is not None:
            points.append((x, y))
    if len({x for x, _ in points}) < 2:
        return None
    xs, ys = zip(*sorted(points), strict=True)
    return report.plot([Series("jobs", xs, ys, style="points")], key, sweep.objective)


def _cells(row: Row, swept: Sequence[str], first: bool) -> list[str]:
    kept = row.entry.result or {}
    return [
        row.entry.name,
        *(row.entry.swept.get(key, "") for key in swept),
        row.status.state.value,
        _format(kept.get("objective"), ".4f") + (BEST if first else ""),
        _format(kept.get("exit_code"), "d"),
        _format(kept.get("hours"), ".3f"),
        _format(kept.get("dollars"), ".2f"),
        row.trouble,
    ]


def _objective(row: Row) -> float | None:
    value = (row.entry.result or {}).get("objective")
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _format(value: Any, form: str) -> str:
    """A figure of a file that a script may have written: "" for what is no number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return ""
    return format(int(value) if form == "d" else value, form)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
