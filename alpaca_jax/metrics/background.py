"""Sinks: also send a run's metrics to Weights & Biases or MLflow, each from its own thread, so that no step waits for a network."""

import contextlib
import functools
import importlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from alpaca_jax import rundir, storage
from alpaca_jax.errors import UserError
from alpaca_jax.metrics.config import LoggingConfig
from alpaca_jax.metrics.trackers import MLflow, Tracker, WandB
from alpaca_jax.terminal import Console

FILE = "logging.json"  # each tracker's own id for the run, so that a restart continues the same one
WAITING = 10_000  # lines queued for a slow tracker
RETRY_SECONDS = 60.0  # before trying an unreachable tracker again
CLOSE_SECONDS = 30.0  # how long the end of a run waits for a tracker

Warn = Callable[[str], None]


class Sink(Protocol):
    """Takes a step's metrics; never raises and never makes a step wait."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def sinks(
    config: LoggingConfig, run_name: str, settings: Mapping[str, Any], folder: str | Path, warn: Warn | None = None
) -> tuple["Background", ...]:
    """Returns a sink for each tracker that `config` names, none by default; raises UserError if its package isn't installed.

    `settings` is the run's configuration. The tracker's id for the run is kept in `folder/logging.json`, so that a restart in the same
    folder continues the same run there. `warn` gets one message for each tracker that fails. If `folder` is on an object store, the
    local files of Weights & Biases go to a temporary folder.
    """
    file = storage.at(folder) / FILE
    name = config.run_name or run_name
    known = rundir.read_json(file) if file.is_file() else {}
    trackers: list[Tracker] = []
    if config.wandb is not None:
        local = tempfile.mkdtemp(prefix="alpaca-jax-wandb-") if storage.is_remote(folder) else folder
        trackers.append(WandB(_package("wandb", "init"), config.wandb, name, settings, local, known.get("wandb")))
    if config.mlflow is not None:
        trackers.append(MLflow(_package("mlflow", "MlflowClient"), config.mlflow, name, settings, known.get("mlflow")))
    ids = Ids(file, known)
    return tuple(Background(tracker, ids, warn or on_terminal) for tracker in trackers)


class Ids:
    """The trackers' ids for the run, in a file that several threads write."""

    def __init__(self, file: Path, known: Mapping[str, str]) -> None:
        self._file, self._known = file, dict(known)
        self._lock = threading.Lock()

    def keep(self, tracker: Tracker) -> None:
        """Saves the tracker's id if it is new."""
        with self._lock:
            if tracker.id is not None and self._known.get(tracker.name) != tracker.id:
                self._known[tracker.name] = tracker.id
                rundir.write_json(self._file, self._known)


class Background:
    """Feeds a tracker from a thread. It loses what it can't take, with one warning; metrics.jsonl has everything."""

    def __init__(
        self, tracker: Tracker, ids: Ids, warn: Warn, *, retry_seconds: float = RETRY_SECONDS, close_seconds: float = CLOSE_SECONDS
    ) -> None:
        self._tracker, self._ids, self._warn = tracker, ids, warn
        self._retry_seconds, self._close_seconds = retry_seconds, close_seconds
        self._warned = self._is_open = False
        self._lines: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._feed, name=f"metrics to {tracker.name}", daemon=True)
        self._thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Queues the metrics and returns at once."""
        try:
            self._lines.put_nowait((step, dict(values)))
        except queue.Full:
            self._complain(f"is {WAITING} lines behind the run")

    def close(self) -> None:
        """Waits until the tracker has everything, for half a minute at most."""
        deadline = time.monotonic() + self._close_seconds
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=self._close_seconds)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._complain(f"has not taken everything {self._close_seconds:.0f} s after the last step")

    def _feed(self) -> None:
        self._try(self._open)
        asked = time.monotonic()
        for line in iter(self._lines.get, None):
            if not self._is_open and time.monotonic() - asked >= self._retry_seconds:
                self._try(self._open)
                asked = time.monotonic()
            if self._is_open:
                self._try(functools.partial(self._tracker.write, *line))
        if self._is_open:
            self._try(self._tracker.close)

    def _open(self) -> None:
        try:
            self._tracker.open()
        finally:
            self._ids.keep(self._tracker)  # it may have created the run before it failed
        self._is_open = True

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:  # network, full disk, even its own sys.exit: no failure of a tracker may end the training
            self._complain(f"fails ({type(error).__name__}: {' '.join(str(error).split())[:300]})")

    def _complain(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(f"{self._tracker.name} {what}; the run continues without it, and metrics.jsonl has every number")


def _package(name: str, attribute: str) -> Any:
    try:
        package = importlib.import_module(name)
    except ImportError:
        package = None
    if not hasattr(package, attribute):  # a folder of that name in the current directory can be imported too
        raise UserError(
            f"logging.{name}: the package {name} is not installed; run pip install 'alpaca-jax[{name}]', or set logging.{name}=null"
        )
    return package


def on_terminal(message: str) -> None:
    """Shows a warning on stderr."""
    Console(stderr=True).print(message, style="yellow", highlight=False, soft_wrap=True)
