"""The figures of a run and its job, read from the files that they write; each file may be missing."""

import datetime
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpaca_jax import documents, rundir, storage
from alpaca_jax.cluster.record import Record
from alpaca_jax.errors import UserError

TAIL_BYTES = 1 << 16
SUMMARIES = ("train/summary.json", "summary.json")
EVALUATED = ("heldout", "suites/", "compare/")  # figures of one step


def last_step(run: str) -> tuple[int | None, float | None]:
    """Returns (step, loss) of the newest step in train/metrics.jsonl of a run's dir."""
    line = next((line for line in _newest_first(run) if "loss" in line), {})
    step = _number(line.get("step"))
    return None if step is None else int(step), _number(line.get("loss"))


def objective(run: str, key: str) -> float | None:
    """Returns the figure `key` (`a.b` is nested) of a finished run's summary, else the newest in its metrics, else None.

    None too where the figure is known to be of an earlier step than the last: jobs are ranked by it.
    """
    summaries = list(_summaries(run)) or [{}]
    figure, written = next(((found, one) for one in summaries if (found := _inside(one, key)) is not None), (None, summaries[0]))
    step = written.get("evaluated", written.get("heldout_step")) if key.startswith(EVALUATED) else None
    if figure is None:
        line = next((line for line in _newest_first(run, whole=True) if key in line), {})
        figure, step = line.get(key), line.get("step")
    end = written.get("steps")
    if step is not None and end is not None and step != end:
        return None  # an earlier evaluation's: it says nothing of what the run has come to
    return _number(figure)


def summary(run: str) -> dict[str, Any]:
    """Returns the summary that the run wrote at its end, an empty dict without one."""
    return next(_summaries(run), {})


def hours(record: Record) -> float:
    """Returns the total hours of a job's attempts; an attempt that was cut off counts as zero."""
    spans = [_at(attempt.ended) - _at(attempt.started) for attempt in record.attempts if attempt.ended]
    return sum(spans, datetime.timedelta()).total_seconds() / 3600


def age(record: Record) -> float:
    """Returns the seconds since the newest attempt began, or since the job was queued."""
    since = record.attempts[-1].started if record.attempts else record.queued
    return (datetime.datetime.now(datetime.UTC) - _at(since)).total_seconds()


def _summaries(run: str) -> Iterator[dict[str, Any]]:
    """The summaries that the run wrote, of training first; a recipe's own has what its later stages measured."""
    for name in SUMMARIES:
        try:
            content = rundir.read_json(os.path.join(run, name))
        except UserError:  # it doesn't exist, or the store can't be reached now
            continue
        yield content if isinstance(content, dict) else {}


def _inside(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _at(time: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(time)


def _newest_first(run: str, whole: bool = False) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl from its end; all of them with `whole`."""
    path = os.path.join(run, "train", "metrics.jsonl")
    try:
        piece = storage.at(path).read_bytes() if storage.is_remote(path) else _end(Path(path), whole)
    except (OSError, UserError):
        return
    for line in reversed(piece.splitlines()):
        try:
            content = documents.json_value(line)
        except ValueError:  # torn at either end
            continue
        if isinstance(content, dict):
            yield content


def _end(path: Path, whole: bool) -> bytes:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0 if whole else max(0, size - TAIL_BYTES))
        return file.read()
