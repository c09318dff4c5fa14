"""What every export shares: a target that appears whole or not at all, and reading the next piece while the last one is written."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from alpaca_jax.errors import UserError, disk_is_full
from alpaca_jax.rundir import write_json

T = TypeVar("T")
PLAN = "plan.json"
SPARE = 64 * 10**6  # bytes left free beside what is written


class Partial:
    """The folder `.NAME.partial` that a target is written in. It survives a kill, and the next export of the same `plan` continues it.

    `size`: the bytes that the target will take; a UserError where the disk has no room for them.
    """

    def __init__(self, target: Path, plan: Mapping[str, Any], size: int = 0) -> None:
        self.target = target
        self.folder = target.with_name(f".{target.name}.partial")
        wanted = json.loads(json.dumps(plan))
        if self._plan() != wanted:
            self.discard()
        self.resumed = self.folder.is_dir()
        self._check_room(size)
        with explains_full_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / PLAN, wanted)

    def finish(self, name: str | None = None) -> None:
        """Puts the folder in the target's place (absent, or an empty folder), or only the file `name` of it."""
        (self.folder / PLAN).unlink()
        if name is None:
            os.replace(self.folder, self.target)
        else:
            os.replace(self.folder / name, self.target)
            self.discard()

    def discard(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _plan(self) -> Any:
        try:
            return json.loads((self.folder / PLAN).read_bytes())
        except (OSError, ValueError):
            return None

    def _check_room(self, size: int) -> None:
        written = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) if self.resumed else 0
        parent = next(folder for folder in self.folder.absolute().parents if folder.exists())
        free = shutil.disk_usage(parent).free
        if free < size - written + SPARE:
            raise UserError(
                f"{self.target} will take {size / 1e9:,.2f} GB, and the disk of {parent} has {free / 1e9:,.2f} GB left: "
                "make room, or give a target elsewhere"
            )


@contextmanager
def explains_full_disk(folder: Path) -> Iterator[None]:
    """Turns the error of a full disk into a UserError; what was written completely stays for the next start."""
    try:
        yield
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise UserError(f"{folder}: the disk is full; make room and start the same command again, it goes on from there") from error


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields `items`; a thread prepares the next one while the caller uses the last. Its errors are raised here."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
