"""Folders that are built once: whole or not at all, with progress, the lead process first, and damage named.

They are read from a disk always, through a memory map or ArrayRecord. An object store may keep copies of them, which machines without a
disk in common take instead of building the same again; such a copy counts when the file that is put last is there.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alpaca_jax import storage
from alpaca_jax.errors import UserError

T = TypeVar("T")
CACHE = "~/.cache/alpaca_jax/data"
ASIDE = ".building-"
STALE_SECONDS = 24 * 3600
QUIET_SECONDS = 10  # between the lines of progress where there is no terminal


@contextlib.contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `folder` when all went well: whole, or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=ASIDE))
    except OSError as error:
        raise UserError(f"{folder.parent}: can't be written ({error.strerror}); give another data.cache=") from error
    try:
        yield building
        building.chmod(0o755)
        _rename(building, folder)
    except (OSError, RuntimeError) as error:
        if os.strerror(errno.ENOSPC) in str(error):  # ArrayRecord says it in a RuntimeError
            free = shutil.disk_usage(folder.parent).free / 1e6
            raise UserError(f"{folder}: the disk is full ({free:.1f} MB free); make room, or give another data.cache=") from error
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def place(cache: str | None) -> tuple[Path, Path | None]:
    """Returns the folder of a disk in which datasets lie, and the one on an object store that keeps copies, where `cache` is there."""
    if cache is None or not storage.is_remote(cache):
        return Path(cache or CACHE).expanduser(), None
    return Path(CACHE).expanduser(), storage.at(cache)


def fetched(copy: Path | None, folder: Path, last: str) -> bool:
    """Whether `folder` has been made from its copy on a store; False where there is none."""
    with storage.told(copy or folder):
        if copy is None or not (copy / last).exists():
            return False
    with aside(folder) as building:
        storage.fetch(copy, building)
    return True


def keep(folder: Path, copy: Path | None, last: str) -> None:
    """Puts a copy of a built folder on a store, unless it has one."""
    if copy is None:
        return
    with storage.told(copy):
        there = (copy / last).exists()
    if not there:
        storage.send(folder, copy, last)


@contextlib.contextmanager
def damage_named(folder: Path) -> Iterator[None]:
    """A context in which whatever goes wrong is said to be the folder's damage, with the remedy."""
    try:
        yield
    except Exception as error:  # TFDS, ArrayRecord and numpy each have their own
        raise UserError(f"{folder} is damaged ({error}): delete it, and it is built again") from error


def shown(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yields the items, with a progress bar on a terminal and a line every 10 seconds elsewhere."""
    total = len(items) if total is None and isinstance(items, Sequence) else total
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total, description=what)
        return
    last = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - last > QUIET_SECONDS:
            last = time.monotonic()
            console.print(f"{what}: {number:,}{'' if total is None else f' of {total:,}'}", highlight=False)
        yield item


def _rename(building: Path, folder: Path) -> None:
    try:
        building.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker: its folder holds the same
            raise


def _sweep(parent: Path) -> None:
    """Removes what killed processes left half-built; by age, since another machine may be building here."""
    for left in parent.glob(f"{ASIDE}*"):
        with contextlib.suppress(FileNotFoundError):  # its process has just finished
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
