"""The progress of a training run: a bar on a terminal, a line now and then elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0


class Display:
    """Shows step, loss, real tokens per second, MFU and the time left on stderr, as long as its context lasts."""

    def __init__(self, console: Console, steps: int, done: int) -> None:
        self._console = console
        self._steps = steps
        self._first = done
        self._start = time.monotonic()
        self._last_line = self._start
        columns = (
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=steps, completed=done)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes in the figures of a finished step."""
        text = describe(metrics)
        self._progress.update(self._task, completed=step, description=text)
        now = time.monotonic()
        if self._console.is_terminal or (now - self._last_line < LINE_SECONDS and step < self._steps):
            return
        left = (now - self._start) / max(1, step - self._first) * (self._steps - step)
        self._console.print(f"step {step}/{self._steps}  {text}  {left:.0f} s left", highlight=False)
        self._last_line = now


def describe(metrics: dict[str, Any]) -> str:
    """`loss 1.234  567 tokens/s  MFU 41.2%`; MFU only where the device's peak is known."""
    mfu = "" if metrics["mfu"] is None else f"  MFU {metrics['mfu']:.1%}"
    return f"loss {metrics['loss']:.4f}  {metrics['tokens_per_second']:,.0f} tokens/s{mfu}"
