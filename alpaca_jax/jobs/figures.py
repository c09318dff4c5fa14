"""How far a run has come, read from the files that it writes; none of them needs to be there."""

import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpaca_jax import rundir, storage
from alpaca_jax.cluster.record import Record
from alpaca_jax.errors import UserError

TAIL_BYTES = 1 << 16
SUMMARIES = ("train/summary.json", "summary.json")


def last_step(run: str) -> tuple[int | None, float | None]:
    """Returns (step, loss) of the newest step that train/metrics.jsonl of a run's dir tells of."""
    line = next((line for line in _newest_first(run) if "loss" in line), {})
    return line.get("step"), line.get("loss")


def objective(run: str, key: str) -> float | None:
    """Returns the figure `key` (`a.b` is one inside another) of a finished run's summary, or the newest of its metrics; None without."""
    found: Any = summary(run)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if found is None:
        found = next((line[key] for line in _newest_first(run, whole=True) if key in line), None)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def summary(run: str) -> dict[str, Any]:
    """Returns what the run wrote at its end, an empty dict where it didn't."""
    for name in SUMMARIES:
        try:
            found = rundir.read_json(os.path.join(run, name))
        except UserError:  # it isn't there, or the store can't be reached now
            continue
        return found if isinstance(found, dict) else {}
    return {}


def hours(record: Record) -> float:
    """Returns how long the attempts of a job took together; one that was cut off counts nothing."""
    spans = [_at(attempt.ended) - _at(attempt.started) for attempt in record.attempts if attempt.ended]
    return sum(spans, datetime.timedelta()).total_seconds() / 3600


def age(record: Record) -> float:
    """Returns the seconds since the newest attempt began, or since the job was queued."""
    since = record.attempts[-1].started if record.attempts else record.queued
    return (datetime.datetime.now(datetime.UTC) - _at(since)).total_seconds()


def _at(time: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(time)


def _newest_first(run: str, whole: bool = False) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl from its end; with `whole` all of them."""
    path = os.path.join(run, "train", "metrics.jsonl")
    try:
        piece = storage.at(path).read_bytes() if storage.is_remote(path) else _end(Path(path), whole)
    except (OSError, UserError):
        return
    for line in reversed(piece.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:  # torn at either end
            continue
        if isinstance(found, dict):
            yield found


def _end(path: Path, whole: bool) -> bytes:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0 if whole else max(0, size - TAIL_BYTES))
        return file.read()
