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

from alpaca_jax import documents
from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import write_json

# Settings that change how a stage runs but not its result.
FREE = ("mesh", "hardware", "checkpoint", "log_every", "logging", "profile")
PLACES = ("dir", "cache", "data.cache", "model.cache")  # settings that only say where something lies
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
    older: tuple[str, str] | None = None  # fingerprint and identity as a version that counted places had them; not written

    def write(self, path: Path) -> None:
        """Writes the marker to `path`."""
        value = dataclasses.asdict(self)
        del value["older"]
        write_json(path, value)

    def renewed(self, expected: "Marker") -> "Marker":
        """This marker with the command of `expected`, which may name other places, and with its hashes where an older version made them."""
        renewal = dataclasses.replace(self, command=expected.command)
        if (self.fingerprint, self.identity) == expected.older:
            renewal.fingerprint, renewal.identity = expected.fingerprint, expected.identity
        return renewal

    def done(self) -> None:
        """Marks the stage as finished now (UTC)."""
        self.state = "done"
        self.finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read(path: Path) -> Marker | None:
    """Returns the marker at `path`, or None if the stage was never started; raises UserError if the file is not a marker."""
    if not path.exists():
        return None
    try:
        return parse(Marker, documents.json_object(documents.read(path), str(path)))
    except UserError as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path} is not the marker of a stage ({why}); delete it, and the stage continues in its existing folder") from None


def expected(name: str, command: list[str], resolved: Mapping[str, Any], previous: Marker | None, dir: str) -> Marker:
    """Returns the marker that a fresh start of the stage would have, in the recipe's folder `dir`.

    Places don't count, only what lies there: paths inside `dir` are taken relative to it, and records outside by their content, so that a
    recipe goes on where the folder, the cache or the records have moved.

    Both hashes include the id of the previous stage's marker: if that stage is run again, even with the same configuration, all
    stages after it are run again too.
    """
    verb, before = command[0], previous.id if previous else None
    depends = {key: value for key, value in resolved.items() if key not in FREE}
    hashes = []
    for settings in (depends, {key: _placeless(key, value, dir) for key, value in depends.items() if key not in PLACES}):
        bound = {key: _at(settings, key) for key in IDENTITY[verb]} if verb in IDENTITY else settings
        hashes.append((_hash(verb, settings, before), _hash(verb, bound, before)))
    older, (fingerprint, identity) = hashes
    return Marker(name, command, fingerprint, identity, older=older)


def shell(command: Sequence[str]) -> str:
    """Returns the command as typed in a shell."""
    return shlex.join(["alpaca-jax", *command])


def _at(mapping: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    first, _, rest = key.partition(".")
    value = mapping.get(first)
    return _at(value, rest) if rest and isinstance(value, Mapping) else value


def _placeless(key: str, value: Any, dir: str) -> Any:
    """A setting without the places that it names; `key` is its dotted key."""
    if isinstance(value, Mapping):
        return {name: _placeless(f"{key}.{name}", inner, dir) for name, inner in value.items() if f"{key}.{name}" not in PLACES}
    if isinstance(value, list):
        return [_placeless(key, inner, dir) for inner in value]
    if not isinstance(value, str):
        return value
    if value == dir or value.startswith(f"{dir}/"):
        return f".{value.removeprefix(dir)}"
    if key == "data.records" or (key.startswith("data.sources.") and key.endswith(".records")):
        path = Path(value).expanduser()
        return {"sha256": _content(path)} if path.is_file() else value
    return value


def _content(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); the stage needs these records") from error


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
