"""Folders that are built once: whole or not at all, and refused by name where they are damaged.

They are always read from a disk, through a memory map or ArrayRecord. An object store may hold copies of them, so that machines without a
shared disk don't build them again; a copy is whole once the file that is uploaded last is there.
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
BUILDING = ".building-"
STALE_SECONDS = 24 * 3600


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `folder` on success, so that `folder` appears whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=BUILDING))
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


def cache_folders(cache: str | None) -> tuple[Path, Path | None]:
    """Returns the cache folder on this machine's disk and, where `cache` is on an object store, the folder of copies there."""
    if cache is None or not storage.is_remote(cache):
        return Path(cache or CACHE).expanduser(), None
    return Path(CACHE).expanduser(), storage.at(cache)


def fetch_copy(copy: Path | None, folder: Path, last: str) -> bool:
    """Downloads `folder` from its copy on a store; False where there is no copy."""
    with storage.explained(copy or folder):
        if copy is None or not (copy / last).exists():
            return False
    with atomic_folder(folder) as building:
        storage.fetch(copy, building)
    return True


def store_copy(folder: Path, copy: Path | None, last: str) -> None:
    """Uploads a built folder to a store, unless its copy is there already."""
    if copy is None:
        return
    with storage.explained(copy):
        exists = (copy / last).exists()
    if not exists:
        storage.send(folder, copy, last)


@contextlib.contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """A context whose errors become a UserError that calls `folder` damaged and says what to do."""
    try:
        yield
    except Exception as error:  # TFDS, ArrayRecord and numpy each raise their own
        raise UserError(f"{folder} is damaged ({error}): delete it, and it will be built again") from error


def _rename(building: Path, folder: Path) -> None:
    try:
        building.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was faster, and its folder holds the same
            raise


def _sweep(parent: Path) -> None:
    """Deletes old temporary folders that killed processes left; not recent ones, in which another machine may be building."""
    for leftover in parent.glob(f"{BUILDING}*"):
        with contextlib.suppress(FileNotFoundError):  # its process has just finished
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
