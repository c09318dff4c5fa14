"""What the locks on a disk and on an object store share: a file that names its holder, and the heartbeat of the holder."""

import abc
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from alpaca_jax.lock.holder import Holder


class HeldLock(abc.ABC):
    """The lock in `file`, held from the creation of this object until its context ends; a UserError where another process holds it."""

    BEAT_SECONDS: float  # between two signs of life
    WATCH_SECONDS: float  # without one, a holder on another host is taken for dead
    POLL_SECONDS: float

    def __init__(self, file: Path, holder: Holder, written: Path, key: str) -> None:
        self.file, self.holder, self.written, self.key = file, holder, written, key
        self._take_over()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._release()

    @abc.abstractmethod
    def _take_over(self) -> None:
        """Returns once the file names this holder; raises the refusal where another one lives."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Removes the file, if it is still this holder's."""

    @abc.abstractmethod
    def _sign(self, beat: int) -> None:
        """Writes the `beat`-th sign of life."""

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(self.BEAT_SECONDS):
            beat += 1
            self._sign(beat)

    def _outlive(self, before: Holder) -> None:
        """Returns once it is certain that the holder that the file names is no more; raises the refusal where it lives."""
        if before.here:
            if before.alive:
                raise self._refusal(before)
            return
        content, end = self._read(), time.monotonic() + self.WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(self.POLL_SECONDS)
            now = self._read()  # by its name, not through a descriptor: a network's file system may show an open file as it was
            if now is None:
                return
            if now != content:
                raise self._refusal(before)

    def _refusal(self, before: Holder) -> Exception:
        return before.refusal(self.written, self.key, self.file)

    def _read(self) -> bytes | None:
        try:
            return self.file.read_bytes()
        except FileNotFoundError:
            return None

    def _named(self) -> Holder | None:
        content = self._read()
        return None if content is None else Holder.read(content)
