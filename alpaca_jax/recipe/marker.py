"""What is known of a stage between two starts of the recipe: kept in dir/stages/NAME.json."""

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

# Settings that change how a stage runs and not what it makes.
FREE = ("mesh", "hardware", "checkpoint", "log_every", "logging", "profile")
# Where more may change without making the folder another's: what is named here must stay, the rest the verb takes up in place.
# Answers that a teacher was paid for are not set aside because more records are wanted, or other filters.
IDENTITY = {
    "generate": ("method", "seed", "seeds", "sampling", "magpie", "self_instruct", "teacher.source", "teacher.model", "teacher.endpoint")
}


@dataclasses.dataclass
class Marker:
    """A stage's command, the fingerprint of what it depends on, and what it has cost over all its starts."""

    name: str
    command: list[str]  # what follows `alpaca-jax`
    fingerprint: str  # of all that the result depends on
    identity: str  # of what the folder is bound to
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    state: Literal["started", "done"] = "started"
    starts: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    finished: str | None = None

    def write(self, path: Path) -> None:
        """Puts the marker at `path`."""
        write_json(path, dataclasses.asdict(self))

    def done(self) -> None:
        """Marks the stage as finished now (UTC)."""
        self.state = "done"
        self.finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read(path: Path) -> Marker | None:
    """Returns the marker at `path`, or None where the stage was never started; a UserError where it is none of ours."""
    if not path.exists():
        return None
    try:
        return Marker(**read_json(path))
    except TypeError as error:
        raise UserError(
            f"{path} is not the marker of a stage ({error}); delete it, and the stage goes on in the folder that is there"
        ) from None


def expected(name: str, command: list[str], resolved: Mapping[str, Any], previous: Marker | None) -> Marker:
    """Returns the marker a fresh start of the stage would have.

    Both fingerprints cover the very start of the stage before it: when that one is done anew, even with the same
    configuration, everything after it is done anew too.
    """
    verb, before = command[0], previous.id if previous else None
    depends = {key: value for key, value in resolved.items() if key not in FREE}
    bound = {key: _at(resolved, key) for key in IDENTITY[verb]} if verb in IDENTITY else depends
    return Marker(name, command, _hash(verb, depends, before), _hash(verb, bound, before))


def shell(command: Sequence[str]) -> str:
    """Returns the command as it is typed in a shell."""
    return shlex.join(["alpaca-jax", *command])


def _at(mapping: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    first, _, rest = key.partition(".")
    value = mapping.get(first)
    return _at(value, rest) if rest and isinstance(value, Mapping) else value


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
