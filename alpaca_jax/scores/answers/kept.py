"""A file of answers that grows while they are made: a kill loses those under way, and a second run makes what is missing."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpaca_jax import storage
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import append_line
from alpaca_jax.scores.answers import shapes
from alpaca_jax.scores.answers.answer import Answer
from alpaca_jax.scores.prompts import items

REMEDY = "give the earlier settings, another dir=, or answers.set_aside=true to rename the file and answer anew"


class AnswerFile:
    """The answers at `path` by prompt and seed; `keep` adds one. Its first line has the `settings` that the answers depend on.

    Opening one of other settings raises a UserError that says what differs, or renames it with `set_aside`. Damaged lines are named in
    `damaged`; what they held is missing.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], set_aside: bool = False) -> None:
        assert not storage.is_remote(path), path
        self.path, self.damaged = path, list[str]()
        self.renamed: Path | None = None
        self.answers: dict[str, dict[int, Answer]] = defaultdict(dict)
        self._settings = json.loads(json.dumps(settings))
        if path.is_file() and path.stat().st_size:
            differing = self._read()
            if differing and not set_aside:
                raise UserError("\n  ".join([f"{path} holds answers that were made with other settings:", *differing, REMEDY]))
            if differing:
                self.renamed = rename(path)
                self.answers.clear()
                self.damaged.clear()
        if not path.is_file() or not path.stat().st_size:
            append_line(path, json.dumps({shapes.SETTINGS: self._settings}, ensure_ascii=False))

    def keep(self, id: str, answer: Answer) -> None:
        """Puts an answer on disk."""
        append_line(self.path, json.dumps(shapes.written(id, answer), ensure_ascii=False))
        self.answers[id][answer.seed] = answer

    def _read(self) -> list[str]:
        """Reads the file; returns in words what its settings differ in."""
        before: Any = None
        for number, (where, load) in enumerate(items(str(self.path), "dir")):
            try:
                value = load()
                if number == 0:
                    before = value.get(shapes.SETTINGS) if isinstance(value, dict) else None
                    continue
                read = shapes.item(value)
                self.answers[read.id].setdefault(read.answers[0].seed, read.answers[0])
            except ValueError as problem:
                self.damaged.append(f"{where}: {problem}")
        return differing(before, self._settings)


def differing(before: Any, now: Mapping[str, Any]) -> list[str]:
    """In words what the settings of earlier answers differ in from those of now; [] if in nothing."""
    if not isinstance(before, dict):
        return ["it doesn't begin with the settings that its answers were made with"]
    return [f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in {**before, **now} if before.get(key) != now.get(key)]


def rename(path: Path) -> Path:
    """Renames a file or folder to the first free of NAME.1, NAME.2 and so on, and returns that."""
    number = next(number for number in range(1, 1_000_000) if not path.with_name(f"{path.stem}.{number}{path.suffix}").exists())
    return path.rename(path.with_name(f"{path.stem}.{number}{path.suffix}"))
