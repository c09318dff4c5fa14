"""Room on a disk that is kept for what must still be written when it is full."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from alpaca_jax.errors import disk_is_full

LEAST = 4096


class Reserve:
    """A file of `size` bytes, or of a fourth of it and so on where the disk has less."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        while size >= LEAST:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as file:
                    file.write(bytes(size))
                    os.fsync(file.fileno())
                return
            except OSError as error:
                self.release()
                if not disk_is_full(error):
                    return  # what can't be written there is said by who needs it
                size //= 4

    def release(self) -> None:
        """Gives the room back."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


@dataclasses.dataclass
class Saving:
    """What became of writing: the first error, the room that is kept, and the lines that are in memory alone."""

    problem: Exception | None = None
    reserve: Reserve | None = None
    unsaved: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def fail(self, problem: Exception) -> None:
        """Remembers the first error, and gives the room back."""
        self.problem = self.problem or problem
        if self.reserve is not None:
            self.reserve.release()
