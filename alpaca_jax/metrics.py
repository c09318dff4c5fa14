"""The numbers of a run: one JSON line a step, TensorBoard events beside it, and rates with units."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from alpaca_jax import rundir


class MetricsWriter:
    """Appends a run's numbers to `folder/metrics.jsonl` and, where a value is a number, to TensorBoard events in `folder/events`.

    A line that a killed process left torn is cut off before the next one is written.
    """

    def __init__(self, folder: str | Path, tensorboard: bool = True) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "metrics.jsonl"
        self._tensorboard = tensorboard
        self._events: Any = None
        self._purge_step: int | None = None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends the line `{"step": step, **values}`; a number that is not finite is written as null, as JSON has no NaN."""
        line = {"step": int(step)} | {key: _plain(value) for key, value in values.items()}
        rundir.append_line(self.path, json.dumps(line, allow_nan=False))
        if not self._tensorboard:
            return
        events = self._event_writer()
        for key, value in line.items():
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                events.add_scalar(key, value, global_step=int(step))

    def rewind(self, step: int) -> int:
        """Drops every line of a step after `step`, where training goes on from, and returns how many there were.

        TensorBoard is told to hide its events of those steps.
        """
        lines = read(self.path)
        kept = [line for line in lines if line["step"] <= step]
        if len(kept) < len(lines):
            rundir.write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.close()
        self._purge_step = step + 1
        return len(lines) - len(kept)

    def close(self) -> None:
        """Flushes and closes the TensorBoard file; a later write opens another."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _event_writer(self) -> Any:
        if self._events is None:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(self.folder / "events"), purge_step=self._purge_step, flush_secs=10)
        return self._events


def read(path: str | Path) -> list[dict[str, Any]]:
    """Returns the whole lines of a metrics file in order; an absent file is an empty list, and a torn last line is left out."""
    path = Path(path)
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


class WeightedMean:
    """A mean in which every token counts once: sums and weights are added up, and divided in the end."""

    def __init__(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def add(self, total: float, weight: float) -> None:
        """Adds a batch's SUM (not its mean) and the number of tokens it is a sum of."""
        self.total += float(total)
        self.weight += float(weight)

    @property
    def value(self) -> float:
        """The mean over all tokens added; NaN when there were none."""
        return self.total / self.weight if self.weight else math.nan


class Throughput:
    """Rates between two calls of `take`: real (non-pad) tokens and slots a second, utilisation (tokens / slots), and MFU.

    MFU is the model's FLOP for real tokens, recomputation not counted, over `peak_flops` (dense peak of all devices
    together, FLOP/s); it is None where the peak is not known.
    """

    def __init__(self, peak_flops: float | None = None, tokens: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.peak_flops = peak_flops
        self.tokens = tokens
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Starts the clock again and forgets what was added since the last `take`, as after a compilation; `tokens` stays."""
        self._start = self._clock()
        self._tokens = self._slots = 0
        self._flops = 0.0

    def add(self, tokens: int, slots: int, flops: float = 0.0) -> None:
        """Counts a step's real tokens, slots (rows x length) and model FLOP; `tokens` of the object is the sum since the run began."""
        self.tokens += int(tokens)
        self._tokens += int(tokens)
        self._slots += int(slots)
        self._flops += float(flops)

    def take(self) -> dict[str, float | None]:
        """Returns tokens_per_second, slots_per_second, utilisation and mfu since the last call, and starts over."""
        seconds = max(self._clock() - self._start, 1e-9)
        rates = {
            "tokens_per_second": self._tokens / seconds,
            "slots_per_second": self._slots / seconds,
            "utilisation": self._tokens / self._slots if self._slots else None,
            "mfu": self._flops / seconds / self.peak_flops if self.peak_flops and self._flops else None,
        }
        self.restart()
        return rates


def _plain(value: Any) -> Any:
    """The value as JSON holds it: arrays and numpy scalars become Python numbers, NaN and infinities become null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
