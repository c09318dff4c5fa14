"""A lock on an object store: an object that only one can create, and that its holder rewrites while it lives."""

import contextlib
import os
import sys
import time
from pathlib import Path

from alpaca_jax import storage
from alpaca_jax.errors import Lost
from alpaca_jax.lock.heartbeat import HeldLock
from alpaca_jax.lock.holder import Holder

LONGEST_SECONDS = 300.0  # of trying, where others take it again and again


class StoreLock(HeldLock):
    """A lock whose object appears whole, and only where there was none."""

    BEAT_SECONDS = 20.0
    WATCH_SECONDS = 50.0
    POLL_SECONDS = 2.0

    def _take_over(self) -> None:
        with storage.explained(self.file):
            self._acquire()

    def _release(self) -> None:
        with contextlib.suppress(Exception):  # a store that can't be reached now: the lock has no heartbeat any more
            if self._named() == self.holder:
                self.file.unlink()

    def _sign(self, beat: int) -> None:
        with contextlib.suppress(Exception):  # the store can't be reached now
            named = self._named()
            if named is not None and named != self.holder:
                _leave(self.written, named)
            self.file.write_bytes(self.holder.content(beat))

    def _acquire(self) -> None:
        end = time.monotonic() + LONGEST_SECONDS
        while True:
            before = self._named()
            if before is not None:
                if not before.precedes(self.holder):
                    self._outlive(before)
                with contextlib.suppress(FileNotFoundError):
                    self.file.unlink()
            elif self._read() is not None:  # not a lock's content
                self.file.unlink()
            if storage.create(self.file, self.holder.content(0)) and self._named() == self.holder:
                return
            if time.monotonic() > end:
                raise self._refusal(before or self.holder)


def _leave(written: Path, now: Holder) -> None:
    """Ends this process, which somebody took for dead: it must not write any more."""
    print(
        f"alpaca-jax: {written} is now written by process {now.pid} on {now.host}, which had no sign of life from this one: ending",
        file=sys.stderr,
        flush=True,
    )
    os._exit(Lost.exit_code)
