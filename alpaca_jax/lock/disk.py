"""A lock on a disk: the kernel's where the file system has such locks; else, and for holders on other hosts, their heartbeat."""

import contextlib
import errno
import fcntl
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from alpaca_jax.lock.holder import Holder

BEAT_SECONDS = 10.0  # between two signs of life
WATCH_SECONDS = 25.0  # without one, a holder on another host is taken for dead
PATIENCE_SECONDS = 30.0  # for what a dead holder has left running to end
POLL_SECONDS = 0.1
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # of a file system without them


class DiskLock:
    """The lock in `file`, held from the creation of this object until its context ends; a UserError where another process holds it."""

    def __init__(self, file: Path, holder: Holder, written: Path, key: str) -> None:
        self.file, self.holder, self.written, self.key = file, holder, written, key
        self.by_kernel = True  # False: the file system has no locks
        self.descriptor = self._acquire()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def __enter__(self) -> "DiskLock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        try:
            # The file goes while the lock is held: whoever waits for it sees that it waits for a file that is gone.
            with contextlib.suppress(OSError):
                if not self._is_gone(self.descriptor) and (self.by_kernel or self._named() == self.holder):
                    os.unlink(self.file)
        finally:
            os.close(self.descriptor)

    def _acquire(self) -> int:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:  # a start that came to nothing has just removed the folder
                if time.monotonic() > deadline:
                    raise
                continue
            try:
                if self._take(descriptor, out_of_patience=time.monotonic() > deadline):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
            time.sleep(POLL_SECONDS)

    def _take(self, descriptor: int, out_of_patience: bool) -> bool:
        """Takes the lock if it is free; False: try again. Raises the refusal where a living process holds it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            before = Holder.read(_content(descriptor))
            if before is not None and (out_of_patience or not before.here or before.alive) and not before.precedes(self.holder):
                raise before.refusal(self.written, self.key, self.file) from None
            if out_of_patience:
                raise (before or self.holder).refusal(self.written, self.key, self.file) from None
            return False  # it hasn't named itself yet, or something that it has started is about to end
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self.by_kernel = False
        if self._is_gone(descriptor):
            return False
        before = Holder.read(_content(descriptor))
        if before is not None and not before.precedes(self.holder):
            self._outlive(before, descriptor)
        self._write(descriptor, 0)
        if not self.by_kernel:  # two may have come this far: the one that wrote last goes on
            time.sleep(10 * POLL_SECONDS)
            return self._named() == self.holder
        return True

    def _outlive(self, before: Holder, descriptor: int) -> None:
        """Returns once it is certain that the holder that the file names is no more; raises the refusal where it lives."""
        if self.by_kernel and before.same_kernel:
            return  # this kernel would have kept the lock
        if before.here:
            if before.alive:
                raise before.refusal(self.written, self.key, self.file)
            return
        content, end = _content(descriptor), time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            now = self._read()  # through a new descriptor: a network's file system may show an open file as it was
            if now is None:
                return
            if now != content:
                raise before.refusal(self.written, self.key, self.file)

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            with contextlib.suppress(OSError):
                self._write(self.descriptor, beat)

    def _write(self, descriptor: int, beat: int) -> None:
        content = self.holder.content(beat)
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)

    def _is_gone(self, descriptor: int) -> bool:
        """Whether the file has been unlinked, by a holder that has ended, since it was opened."""
        try:
            named = os.stat(self.file)
        except FileNotFoundError:
            return True
        mine = os.fstat(descriptor)
        return (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino)

    def _read(self) -> bytes | None:
        try:
            return self.file.read_bytes()
        except FileNotFoundError:
            return None

    def _named(self) -> Holder | None:
        content = self._read()
        return None if content is None else Holder.read(content)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 16, 0)
