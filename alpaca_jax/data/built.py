"""Folders that are built once: whole or not at all, with progress, the lead process first, and damage named.

They are read from a disk always, through a memory map or ArrayRecord. An object store may keep copies of them, which machines without a
disk in common take instead of building the same again; such a copy counts when the file that is put last is there.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from alpaca_jax import storage
from alpaca_jax.errors import UserError, disk_is_full

CACHE = "~/.cache/alpaca_jax/data"
ASIDE = ".building-"
STALE_SECONDS = 24 * 3600


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
        if disk_is_full(error):
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
    with storage.explained(copy or folder):
        if copy is None or not (copy / last).exists():
            return False
    with aside(folder) as building:
        storage.fetch(copy, building)
    return True


def keep(folder: Path, copy: Path | None, last: str) -> None:
    """Puts a copy of a built folder on a store, unless it has one."""
    if copy is None:
        return
    with storage.explained(copy):
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
