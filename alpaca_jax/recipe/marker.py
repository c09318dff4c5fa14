"""What a recipe remembers of a stage from one start to the next, in dir/stages/NAME.json."""

import dataclasses
import hashlib
import json
import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import read_json, write_json

# Settings that change how a stage runs but not its result.
FREE = ("mesh", "hardware", "checkpoint", "log_every", "logging", "profile")
# Verbs that can continue in their folder with other settings, as long as those named here stay the same. Answers that a teacher was
# paid for are not moved away because more records or other filters are wanted.
IDENTITY = {
    "generate": ("method", "seed", "seeds", "sampling", "magpie", "self_instruct", "teacher.source", "teacher.model", "teacher.endpoint")
}


@dataclasses.dataclass
class Marker:
    """A stage's command, the fingerprint of what it depends on, and its cost over all starts."""

    name: str
    command: list[str]  # without `alpaca-jax`
    fingerprint: str  # of everything that the result depends on
    identity: str  # of the settings that must not change within the output folder
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    state: Literal["started", "done"] = "started"
    starts: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    finished: str | None = None

    def write(self, path: Path) -> None:
        """Writes the marker to `path`."""
        write_json(path, dataclasses.asdict(self))

    def done(self) -> None:
        """Marks the stage as finished now (UTC)."""
        self.state = "done"
        self.finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read(path: Path) -> Marker | None:
    """Returns the marker at `path`, or None if the stage was never started; raises UserError if the file is not a marker."""
    if not path.exists():
        return None
    try:
        return Marker(**read_json(path))
    except TypeError as error:
        raise UserError(
            f"{path} is not the marker of a stage ({error}); delete it, and the stage continues in its existing folder"
        ) from None


def expected(name: str, command: list[str], resolved: Mapping[str, Any], previous: Marker | None) -> Marker:
    """Returns the marker that a fresh start of the stage would have.

    Both hashes include the id of the previous stage's marker: if that stage is run again, even with the same configuration, all
    stages after it are run again too.
    """
    verb, before = command[0], previous.id if previous else None
    depends = {key: value for key, value in resolved.items() if key not in FREE}
    bound = {key: _at(resolved, key) for key in IDENTITY[verb]} if verb in IDENTITY else depends
    return Marker(name, command, _hash(verb, depends, before), _hash(verb, bound, before))


def shell(command: Sequence[str]) -> str:
    """Returns the command as typed in a shell."""
    return shlex.join(["alpaca-jax", *command])


def _at(mapping: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    first, _, rest = key.partition(".")
    value = mapping.get(first)
    return _at(value, rest) if rest and isinstance(value, Mapping) else value


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
