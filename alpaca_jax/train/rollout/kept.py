"""Rollouts as files: `train/rollouts/INDEX.jsonl` holds what was sampled for a batch, so that a resumed run takes the same steps.

Its first line says for which step, and by which settings; each other line is an answer, for programs and for people.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import documents, rundir, storage
from alpaca_jax.distributed import from_lead, is_lead

Line = dict[str, Any]
VERSION = 1


class Kept:
    """The rollouts in `folder`; `key` are the settings that they depend on beside the weights."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self._folder, self._key = folder, {"version": VERSION, **key}

    def path(self, index: int) -> Path:
        """Where those of batch `index` lie."""
        return self._folder / f"{index:06d}.jsonl"

    def get(self, index: int, steps: range, make: Callable[[], Sequence[Line]], step: int) -> list[Line]:
        """The answers of batch `index` from the file, where they were sampled at one of `steps`; else what `make` returns, kept at `step`.

        All processes of a job call it, and get what the lead has.
        """
        found = from_lead({"lines": self._read(index, steps) if is_lead() else None})["lines"]
        if found is not None:
            return found
        lines = list(make())
        if is_lead():
            head = self._key | {"index": index, "step": step}
            rundir.write_atomic(self.path(index), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *lines)).encode())
        return lines

    def _read(self, index: int, steps: range) -> list[Line] | None:
        try:
            with storage.explained(self.path(index)):
                content = storage.at(self.path(index)).read_bytes()
            head, *lines = [documents.json_value(line) for line in content.splitlines()]
        except (FileNotFoundError, ValueError):  # none yet, or not ours: the weights of this step make the same again
            return None
        return lines if head.get("step") in steps and head == self._key | {"index": index, "step": head["step"]} else None
