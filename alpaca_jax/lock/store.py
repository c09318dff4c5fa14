"""A lock on an object store: an object that only one can create, and that its holder rewrites while it lives."""

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from alpaca_jax import storage
from alpaca_jax.errors import Lost
from alpaca_jax.lock.holder import Holder

BEAT_SECONDS = 20.0
WATCH_SECONDS = 50.0  # without a sign of life, a holder on another host is taken for dead
POLL_SECONDS = 2.0
LONGEST_SECONDS = 300.0  # of trying, where others take it again and again


class StoreLock:
    """The lock in the object `file`, held from the creation of this object until its context ends."""

    def __init__(self, file: Path, holder: Holder, written: Path, key: str) -> None:
        self.file, self.holder, self.written, self.key = file, holder, written, key
        with storage.explained(file):
            self._acquire()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def __enter__(self) -> "StoreLock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # a store that can't be reached now: the lock has no heartbeat any more
            if self._named() == self.holder:
                self.file.unlink()

    def _acquire(self) -> None:
        end = time.monotonic() + LONGEST_SECONDS
        while True:
            before = self._named()
            if before is not None:
                self._outlive(before)
                with contextlib.suppress(FileNotFoundError):
                    self.file.unlink()
            elif self._read() is not None:  # not a lock's content
                self.file.unlink()
            if storage.create(self.file, self.holder.content(0)) and self._named() == self.holder:
                return
            if time.monotonic() > end:
                raise (before or self.holder).refusal(self.written, self.key, self.file)

    def _outlive(self, before: Holder) -> None:
        """Returns once it is certain that the holder that the object names is no more; raises the refusal where it lives."""
        if before.precedes(self.holder):
            return
        if before.here:
            if before.alive:
                raise before.refusal(self.written, self.key, self.file)
            return
        content, end = self._read(), time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            now = self._read()
            if now is None:
                return
            if now != content:
                raise before.refusal(self.written, self.key, self.file)

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            with contextlib.suppress(Exception):  # the store can't be reached now
                named = self._named()
                if named is not None and named != self.holder:
                    _leave(self.written, named)
                self.file.write_bytes(self.holder.content(beat))

    def _read(self) -> bytes | None:
        try:
            return self.file.read_bytes()
        except FileNotFoundError:
            return None

    def _named(self) -> Holder | None:
        content = self._read()
        return None if content is None else Holder.read(content)


def _leave(written: Path, now: Holder) -> None:
    """Ends this process, which somebody took for dead: it must not write any more."""
    print(
        f"alpaca-jax: {written} is now written by process {now.pid} on {now.host}, which had no sign of life from this one: ending",
        file=sys.stderr,
        flush=True,
    )
    os._exit(Lost.exit_code)
