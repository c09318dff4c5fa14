"""One writer a folder: whoever writes into a folder holds its lock; whoever only reads needs none.

The lock is the file `.lock` in the folder (`.NAME.lock` beside a target that doesn't exist yet). On a disk the kernel holds it (flock), so
that it ends with its process however that ends, and `kill -9` leaves none behind. The file names its holder: host, process, since when. A
shared disk may keep such locks within one host, or know none, and an object store has none: there, what counts is the holder's heartbeat,
which rewrites the file while the holder lives. A later attempt of the same job follows an earlier one at once.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from alpaca_jax import rundir, storage
from alpaca_jax.lock.disk import DiskLock
from alpaca_jax.lock.holder import Holder
from alpaca_jax.lock.store import StoreLock

FILE = ".lock"


@contextlib.contextmanager
def held(dir: str | os.PathLike[str], part: str, verb: str) -> Iterator[int | None]:
    """A context in which this process alone writes into the folder `part` of `dir`, which exists then; yields the lock's file descriptor.

    A UserError where another process writes there, which it names, or where `dir` can't be written. A child that is to keep the lock, as
    long as it lives, inherits the descriptor (None on an object store).
    """
    root = storage.at(dir)
    with _locked(root / part / FILE, root, root / part, verb, "dir") as descriptor:
        yield descriptor


@contextlib.contextmanager
def target(path: str | os.PathLike[str], verb: str) -> Iterator[None]:
    """A context in which this process alone writes the file or folder `path`, whose parent exists then; errors as in `held`."""
    whole = Path(os.path.abspath(storage.at(path)))
    with _locked(whole.with_name(f".{whole.name}.lock"), whole, whole, verb, "target"):
        yield


@contextlib.contextmanager
def _locked(file: Path, root: Path, written: Path, verb: str, key: str) -> Iterator[int | None]:
    if storage.is_remote(file):
        with StoreLock(file, Holder.this(verb), written, key):
            yield None
        return
    missing = [folder for folder in file.parents if not folder.exists()]
    try:
        lock = DiskLock(file, Holder.this(verb), written, key)
    except OSError as error:
        raise rundir.explained(error, root, key=key) from error
    try:
        with lock:
            yield lock.descriptor
    finally:
        with contextlib.suppress(OSError):  # a start that came to nothing leaves no empty folders
            for folder in missing:
                folder.rmdir()
