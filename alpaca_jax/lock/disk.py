"""A lock on a disk: the kernel's where the file system has such locks; else, and for holders on other hosts, their heartbeat."""

import contextlib
import errno
import fcntl
import os
import time

from alpaca_jax.lock.heartbeat import HeldLock
from alpaca_jax.lock.holder import Holder

PATIENCE_SECONDS = 30.0  # for what a dead holder has left running to end
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # of a file system without them


class DiskLock(HeldLock):
    """A lock whose file the kernel holds, through `descriptor`."""

    BEAT_SECONDS = 10.0
    WATCH_SECONDS = 25.0
    POLL_SECONDS = 0.1
    by_kernel = True  # False: the file system has no locks

    def _take_over(self) -> None:
        self.descriptor = self._acquire()

    def _release(self) -> None:
        try:
            # The file goes while the lock is held: whoever waits for it sees that it waits for a file that is gone.
            with contextlib.suppress(OSError):
                if not self._is_gone(self.descriptor) and (self.by_kernel or self._named() == self.holder):
                    os.unlink(self.file)
        finally:
            os.close(self.descriptor)

    def _sign(self, beat: int) -> None:
        with contextlib.suppress(OSError):
            self._write(self.descriptor, beat)

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
            time.sleep(self.POLL_SECONDS)

    def _take(self, descriptor: int, out_of_patience: bool) -> bool:
        """Takes the lock if it is free; False: try again. Raises the refusal where a living process holds it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            before = Holder.read(_content(descriptor))
            if before is not None and (out_of_patience or not before.here or before.alive) and not before.precedes(self.holder):
                raise self._refusal(before) from None
            if out_of_patience:
                raise self._refusal(before or self.holder) from None
            return False  # it hasn't named itself yet, or something that it has started is about to end
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self.by_kernel = False
        if self._is_gone(descriptor):
            return False
        before = Holder.read(_content(descriptor))
        kept = self.by_kernel and before is not None and before.same_kernel  # this kernel would have kept the lock of one that lives
        if before is not None and not kept and not before.precedes(self.holder):
            self._outlive(before)
        self._write(descriptor, 0)
        if not self.by_kernel:  # two may have come this far: the one that wrote last goes on
            time.sleep(10 * self.POLL_SECONDS)
            return self._named() == self.holder
        return True

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


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 16, 0)
