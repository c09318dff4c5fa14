"""What is being written beside its target, under a hidden name, until all of it is there."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alpaca_jax.errors import UserError, disk_is_full
from alpaca_jax.rundir import write_json

PLAN = "plan.json"
SPARE = 64 * 10**6  # bytes left free beside what is written


class Partial:
    """The folder `.NAME.partial` in which a target is made. It survives a kill, and is taken up again by the same `plan`.

    `size` is how many bytes the whole will have: a UserError where the disk has no room for them.
    """

    def __init__(self, target: Path, plan: Mapping[str, Any], size: int = 0) -> None:
        self.target = target
        self.folder = target.with_name(f".{target.name}.partial")
        wanted = json.loads(json.dumps(plan))
        if self._plan() != wanted:
            self.discard()
        self.resumed = self.folder.is_dir()
        self._check_room(size)
        with told_when_full(self.folder):
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
        """Removes what there is."""
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
def told_when_full(folder: Path) -> Iterator[None]:
    """Turns the error of a full disk into a UserError; what is whole by then stays, for the next start."""
    try:
        yield
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise UserError(f"{folder}: the disk is full; make room and start the same command again, it goes on from there") from error
