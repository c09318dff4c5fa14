"""How far a piece of work has come: a bar on a terminal, a line every ten seconds elsewhere."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich import progress as bars

from alpaca_jax.terminal import Console

T = TypeVar("T")
LINE_SECONDS = 10.0  # between two lines
BAR_SECONDS = 0.1  # between two looks of a bar; each takes longer than many an item


class ProgressBar:
    """Shows `name done/total text` on stderr as long as its context lasts; a `transient` bar vanishes with it."""

    def __init__(self, name: str, total: int | None, done: int = 0, console: Console | None = None, transient: bool = False) -> None:
        self._console = console or Console(stderr=True)
        self._name, self._total, self._done, self._first = name, total, done, done
        self._seconds = BAR_SECONDS if self._console.is_terminal else LINE_SECONDS
        self._start = self._shown = time.monotonic()
        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[text]}", markup=False),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        self._bar = bars.Progress(*columns, console=self._console, transient=transient, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(name, total=total, completed=done, text="")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, text: str = "") -> None:
        """Says that `done` of the total are done; where `text` comes with the last of them, a line is printed at once."""
        self._done, now = done, time.monotonic()
        at_end = done == self._total and (text or self._console.is_terminal)
        if now - self._shown < self._seconds and not at_end:
            return
        self._shown = now
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, text=text)
        else:
            self.notice(self._line(done, text, now))

    def advance(self) -> None:
        """Says that one more is done."""
        self.update(self._done + 1)

    def notice(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _line(self, done: int, text: str, now: float) -> str:
        if self._total is None:
            return f"{self._name} {done:,}  {text}".rstrip()
        left = (now - self._start) / max(1, done - self._first) * (self._total - done)
        return "  ".join(filter(None, (f"{self._name} {done:,}/{self._total:,}", text, f"{left:.0f} s left")))


def track(items: Iterable[T], name: str, total: int | None = None) -> Iterator[T]:
    """Yields the items, with a transient bar on a terminal and a line every ten seconds elsewhere."""
    with ProgressBar(name, len(items) if total is None and isinstance(items, Sequence) else total, transient=True) as progress:
        for item in items:
            yield item
            progress.advance()
