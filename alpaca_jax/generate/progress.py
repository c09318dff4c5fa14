"""The bar of a generation: kept of asked, tokens a second, dollars; a plain line every ten seconds where there is no terminal."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from alpaca_jax.teacher.bill import Bill

EVERY = 10.0  # seconds between plain lines


class Bar:
    """Shows how far a generation is; a context."""

    def __init__(self, count: int, bill: Bill) -> None:
        self._count, self._bill, self._console = count, bill, Console(stderr=True)
        self._start = self._printed = time.monotonic()
        self._tokens_before = bill.completion_tokens
        columns = (TextColumn("records"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rates]}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("records", total=count, rates="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def notice(self, line: str) -> None:
        """Prints a line above the bar."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, kept: int, judged: int) -> None:
        """Brings the bar up to date."""
        now = time.monotonic()
        rate = (self._bill.completion_tokens - self._tokens_before) / max(now - self._start, 1e-9)
        dollars = self._bill.dollars + self._bill.doubtful
        rates = f"{judged} asked, {rate:.0f} tokens/s" + (f", {dollars:.4f} dollars" if dollars else "")
        self._progress.update(self._task, completed=kept, rates=rates)
        if not self._console.is_terminal and now - self._printed >= EVERY:
            self._printed = now
            self.notice(f"generate: {kept}/{self._count} records kept, {rates}, {now - self._start:.0f} s")
