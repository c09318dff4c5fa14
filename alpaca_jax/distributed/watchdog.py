"""Watches the steps: if none is done for too long, prints the stacks of all threads and ends the process, to be started again."""

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from alpaca_jax.errors import Lost

FIRST = 3  # times as long as another step: the first one compiles


class Watchdog:
    """A context with a thread that expects a `beat` at least every `minutes`.

    It counts its own ticks, not the clock's, so a process that was stopped and continued, or a laptop that slept, does not count as stuck.
    """

    def __init__(self, minutes: float, who: str, last_words: Callable[[int, str], None], end: Callable[[int], object] = os._exit) -> None:
        self._limit, self._who, self._last_words, self._end = 60 * minutes, who, last_words, end
        self._waited, self._allowed, self._step = 0.0, FIRST * 60 * minutes, 0
        self._done = threading.Event()
        self._tick = min(1.0, self._limit / 10)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def beat(self, step: int) -> None:
        """Says that this step is done."""
        self._step, self._waited, self._allowed = step, 0.0, self._limit

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._done.wait(self._tick):
            now = time.monotonic()
            self._waited += min(now - before, 2 * self._tick)
            before = now
            if self._waited > self._allowed:
                self._bite()
                return

    def _bite(self) -> None:
        where = f"after step {self._step}" if self._step else "before the first step"
        text = f"stuck for {self._waited / 60:.3g} minutes {where} (distributed.stuck_minutes sets the limit)"
        print(f"alpaca-jax: {self._who}: {text}; the stack of each thread:", file=sys.stderr, flush=True)
        # The main thread first: faulthandler prints a hundred threads at most.
        main = sys._current_frames().get(threading.main_thread().ident or 0)
        print("Main thread (most recent call last):", *traceback.format_stack(main), sep="\n", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr, all_threads=True)
        self._last_words(Lost.exit_code, text)
        sys.stdout.flush()
        self._end(Lost.exit_code)
