"""What every export shares: a target that appears whole or not at all, and reading the next piece while the last one is written."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from alpaca_jax import documents
from alpaca_jax.errors import UserError, disk_is_full

T = TypeVar("T")
PLAN = "plan.json"
INSIDE = ".partial"  # the folder of an unfinished export in a target that is there already
LAST = ("config.json", "model", "conversion.json")  # without them nobody takes a folder for a model, or for a whole conversion
SPARE = 64 * 10**6  # bytes of the disk to leave free
UNWRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT),
    *(errno.EFBIG, errno.EBUSY, errno.ENOTEMPTY, errno.EINVAL, errno.EXDEV),
)


def real(target: Path) -> Path:
    """Returns the absolute path of a target, with all links followed, and `~` as the user's home; a UserError where it is no path."""
    try:
        return Path(os.path.realpath(target.expanduser()))
    except (ValueError, RuntimeError) as error:  # a null byte; no home
        raise UserError(f"target={str(target)!r} is not a path ({error}); give another target") from error


def check_writable(target: Path) -> None:
    """Raises a UserError where `target` can't be written, before anything is read or made."""
    place = real(target)
    parent = place if place.is_dir() else next((folder for folder in place.parents if os.path.lexists(folder)), Path("/"))
    if not parent.is_dir():
        raise UserError(f"target={target} can't be written: {parent} is not a folder; give another target")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"target={target} can't be written: {parent} is read-only, or not yours to write in; give another target")


def unfinished(entry: Path) -> bool:
    """Whether an entry of a target is the folder of an unfinished export, and nobody else's."""
    return entry.name == INSIDE and entry.is_dir() and ((entry / PLAN).is_file() or not any(entry.iterdir()))


class Partial:
    """The folder in which a target is written. It survives a kill, and the next export of the same `plan` continues it.

    It is `.NAME.partial` beside the target, and takes its name at the end. A folder that is there already (a link's, a mounted one, the
    current one) is kept: the export is written to `.partial` in it, and moved up at the end.
    `size`: the bytes that the target will take; a UserError where the disk has no room for them, or the target can't be written.
    """

    def __init__(self, target: Path, plan: Mapping[str, Any], size: int = 0) -> None:
        self.target, place = target, real(target)
        self._place = place
        self.folder = place / INSIDE if place.is_dir() else place.with_name(f".{place.name}.partial")
        wanted = json.loads(json.dumps(plan))
        if self._plan() != wanted:
            self.discard()
        with explained(target):
            self.resumed = self.folder.is_dir()
            self._check_room(size)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / PLAN).write_text(json.dumps(wanted), encoding="utf-8")

    def finish(self, name: str | None = None) -> None:
        """Renames the folder, or only its file `name`, to the target (absent, or an empty folder)."""
        with explained(self.target):
            if name is not None:
                os.replace(self.folder / name, self._place)
                self.discard()
            elif self.folder.parent == self._place:
                self._move_up()
            else:
                (self.folder / PLAN).unlink()
                os.replace(self.folder, self._place)

    def _move_up(self) -> None:
        entries = [entry for entry in self.folder.iterdir() if entry.name != PLAN]
        for entry in sorted(entries, key=lambda entry: (LAST.index(entry.name) + 1 if entry.name in LAST else 0, entry.name)):
            os.replace(entry, self._place / entry.name)
        self.discard()

    def discard(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _plan(self) -> Any:
        try:
            return documents.json_value((self.folder / PLAN).read_bytes())
        except (OSError, ValueError):
            return None

    def _check_room(self, size: int) -> None:
        written = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) if self.resumed else 0
        parent = next(folder for folder in self.folder.absolute().parents if folder.exists())
        free = shutil.disk_usage(parent).free
        if free < size - written + SPARE:
            raise UserError(
                f"{self.target} will take {size / 1e9:,.2f} GB, and the disk of {parent} has {free / 1e9:,.2f} GB left: "
                "make room, or give a target on another disk"
            )


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turns the error of a full disk, or of a place that can't be written, into a UserError; what was written completely stays."""
    try:
        yield
    except OSError as error:
        if disk_is_full(error):
            raise UserError(f"{target}: the disk is full; make room and start the same command again: it continues from there") from error
        if error.errno in UNWRITABLE:
            raise UserError(f"{error.filename or target}: {error.strerror}; give another target than {target}") from error
        raise


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields `items`; a thread prepares the next one while the caller uses the last. Its errors are raised here."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
