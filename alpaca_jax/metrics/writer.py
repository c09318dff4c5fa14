"""Writes a run's metrics: a JSON line for each step, TensorBoard events, and any further sinks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from alpaca_jax import documents, rundir, storage
from alpaca_jax.metrics.background import Sink, on_terminal
from alpaca_jax.metrics.events import EventFile
from alpaca_jax.spool import Spool

FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends a run's metrics to `folder/metrics.jsonl` and, if they are numbers, to TensorBoard events in `folder/events`.

    Each of `sinks` gets the numbers of a line and is closed with the writer. An incomplete line left by a killed process is removed
    before the next one is written.

    If `folder` is on an object store, both files grow in a local folder and are uploaded whole, at most once a minute, by `flush` and
    by `close`; a killed run loses the metrics since the last upload.
    """

    def __init__(self, folder: str | Path, tensorboard: bool = True, sinks: Sequence[Sink] = ()) -> None:
        self.folder = storage.at(folder)
        self._spool = Spool(self.folder, on_terminal) if storage.is_remote(self.folder) else None
        self._local = self.folder if self._spool is None else self._spool.folder
        self._local.mkdir(parents=True, exist_ok=True)
        self.path = self._local / FILE
        if self._spool is not None:
            self._spool.fetch(FILE)
        self._tensorboard = tensorboard
        self._sinks = tuple(sinks)
        self._events: EventFile | None = None
        self._purge_step: int | None = None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends the line `{"step": step, **values}`; a non-finite number becomes null, since JSON has no NaN."""
        line = {"step": int(step)} | {key: _plain(value) for key, value in values.items()}
        rundir.append_line(self.path, json.dumps(line, allow_nan=False))
        numbers = {key: value for key, value in line.items() if key != "step" and _is_number(value)}
        if self._tensorboard:
            self._events = self._events or EventFile(self._local / "events", self._purge_step)
            self._events.write(int(step), numbers)
        for sink in self._sinks:
            sink.write(int(step), numbers)

    def rewind(self, step: int) -> int:
        """Drops every line after `step`, from which training resumes, and returns how many there were.

        TensorBoard hides its events of those steps; a sink gets them again when the steps are repeated.
        """
        lines = read(self.path)
        kept = [line for line in lines if line["step"] <= step]
        if len(kept) < len(lines):
            rundir.write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._close_events()
        self._purge_step = step + 1
        return len(lines) - len(kept)

    def flush(self) -> None:
        """Makes sure that everything written is in `folder`, as before a checkpoint; on a disk it always is."""
        if self._spool is not None:
            self._spool.flush()

    def close(self) -> None:
        """Flushes and closes the TensorBoard file and the sinks; nothing may be written afterwards."""
        self._close_events()
        for sink in self._sinks:
            sink.close()
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _close_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


def read(path: str | Path) -> list[dict[str, Any]]:
    """Returns the complete lines of a metrics file in order: [] if it is absent, and without an incomplete last line.

    A UserError names the file and the line that is no JSON object.
    """
    path = storage.at(path)
    try:
        with storage.explained(path):
            whole = path.read_bytes().rpartition(b"\n")[0]
    except FileNotFoundError:
        return []
    lines = whole.split(b"\n") if whole else []
    return [documents.json_object(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: arrays and numpy scalars become Python numbers, NaN and infinities become null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
