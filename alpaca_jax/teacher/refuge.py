"""A file in the user's own folder for answers that found no room on their disk: the next start puts them where they belong."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import append_line
from alpaca_jax.teacher import lines

FOLDER = "~/.cache/alpaca_jax/unsaved"


def put(folder: Path, answers: Iterable[Mapping[str, Any]]) -> Path | None:
    """Writes the lines of answers that belong in the log at `folder`; returns where, None if there is no room either."""
    try:
        path = _path(folder)
        for answer in answers:
            append_line(path, lines.text(answer))
    except (OSError, UserError, RuntimeError):  # RuntimeError: no home folder
        return None
    return path


def take(folder: Path) -> list[dict[str, Any]]:
    """The lines that belong in the log at `folder`, none if there are none."""
    try:
        path = _path(folder)
    except RuntimeError:
        return []
    return [line for _, _, line in lines.read(path) if isinstance(line, dict) and type(line.get("index")) is int] if path.is_file() else []


def clear(folder: Path) -> None:
    """Removes what `take` gave, once it is in the log."""
    _path(folder).unlink()


def _path(folder: Path) -> Path:
    return Path(FOLDER).expanduser() / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]}.jsonl"
