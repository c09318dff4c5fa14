"""A run's folder, on a disk or an object store: every file in it is written atomically."""

import errno
import fnmatch
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from alpaca_jax import documents, storage
from alpaca_jax.errors import UserError, disk_is_full
from alpaca_jax.masking import masked

# Settings that must not change between two starts of a run; those of mesh, hardware, checkpoint and logging may.
FROZEN = ("model", "data", "batch", "optimizer", "seed")


class RunDir:
    """A run's folder, created when the first file is written into it; `storage.at` checks its path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = storage.at(path)

    def path(self, *parts: str) -> Path:
        """Returns the path of `parts` inside the folder; its parent exists afterwards."""
        path = self.root.joinpath(*parts)
        if storage.is_remote(path):
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, path, 0) from error
        return path

    def __repr__(self) -> str:
        return f"RunDir({str(self.root)!r})"


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes `content` (text as UTF-8, secrets masked) to `path` in one step; a full disk is a UserError and leaves the earlier file."""
    path = storage.at(path)
    data = masked(content).encode() if isinstance(content, str) else content
    if storage.is_remote(path):
        with storage.explained(path):
            path.write_bytes(data)  # an object appears once all of it has arrived
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # in the same folder: a rename across disks isn't atomic
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise explained(error, path, len(data)) from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON; a ValueError for NaN and infinities, which JSON doesn't have."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Returns the value in a JSON file; a UserError names the file, and the line if it is broken."""
    try:
        with storage.explained(path):
            return documents.json_value(storage.at(path).read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except ValueError as error:
        raise UserError(f"{path}, {error}; delete the file to have it written again") from error


def write_yaml(path: str | os.PathLike[str], mapping: Mapping[str, Any]) -> None:
    """Writes `mapping` as YAML, in the order of its keys."""
    import yaml

    write_atomic(path, yaml.safe_dump(dict(mapping), sort_keys=False, allow_unicode=True))


def append_line(path: str | os.PathLike[str], line: str) -> int:
    """Appends one line, syncs it to disk and returns the byte at which it begins.

    A line left torn by a crash is removed first; a full disk leaves no part of a new one.

    Objects can't be appended to: files that grow line by line are uploaded by a `spool`.
    """
    assert not storage.is_remote(path), path
    path = Path(path)
    data = masked(line).rstrip("\n").encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            size = _repair(file)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
            return size
    except OSError as error:
        raise explained(error, path, len(data)) from error


def check_same(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    frozen: Iterable[str] = FROZEN,
    places: Iterable[str] = (),
    before_there_was: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, str]:
    """Raises a UserError for the keys below `frozen` that differ between the YAML at `path`, if there is one, and `config`.

    `places` are keys (with `*` for any name) that say where something lies: these may differ, if the caller checks that it is the same that
    lies there. `before_there_was` says what a key meant to runs that are older than it. Returns each place that differs, and in words how.
    """
    path = storage.at(path)
    try:
        with storage.explained(path):
            before = documents.yaml_value(path.read_bytes(), str(path)) or {}
    except FileNotFoundError:
        return {}
    if not isinstance(before, dict):
        raise UserError(f"{path} doesn't hold a run's settings; give another dir=, or delete the folder")
    frozen = tuple(frozen)
    old, new = (dict(_leaves({key: side[key] for key in frozen if key in side})) for side in (before, config))
    differing = {
        key: f"{key}: {old.get(key, 'absent')!r} there, {new.get(key, 'absent')!r} now"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, before_there_was.get(key)) != new.get(key) and not (key not in old and _off(new[key]))
    }
    patterns = tuple(places)
    moved = {key: text for key, text in differing.items() if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)}
    if len(differing) > len(moved):
        raise another_run(path, [text for key, text in differing.items() if key not in moved])
    return moved


def another_run(path: str | os.PathLike[str], differing: Iterable[str]) -> UserError:
    """Returns the UserError for a folder of a run with other settings."""
    text = "\n  ".join(differing)
    return UserError(f"{path} belongs to another run:\n  {text}\ngive another dir=, the earlier settings, or delete the folder")


def _off(value: Any) -> bool:
    """Whether a setting changes nothing: the run may be older than the setting."""
    return value is None or value is False or value == []


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value


def _repair(file: Any) -> int:
    """Cuts off the part after the last newline, or ends it with one if it is a whole line; returns the file's size in bytes."""
    size = file.seek(0, os.SEEK_END)
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        step = min(start, 1 << 16)
        start = file.seek(start - step)
        tail = file.read(step) + tail
        if tail.endswith(b"\n"):
            return size
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return size
    try:
        json.loads(torn)
    except ValueError:
        file.truncate(size - len(torn))
        return size - len(torn)
    return size + file.write(b"\n")


def explained(error: OSError, path: str | os.PathLike[str], size: int = 0, key: str = "dir") -> UserError:
    """Returns the UserError for what the system said when `path` was to be written; `key` is the setting that names another place."""
    path = Path(path)
    if disk_is_full(error):
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        free = shutil.disk_usage(folder).free / 1e6
        return UserError(f"{path}: the disk is full ({size / 1e6:.1f} MB to write, {free:.1f} MB free); make room, or give another {key}=")
    reason = error.strerror or str(error)
    if error.errno != errno.EROFS and isinstance(error.filename, str):
        named = Path(error.filename)
        named = path.parent if named.name.startswith(f".{path.name}.") else named  # not the name of a temporary file
        reason += "" if named == path else f": {named}"
    return UserError(f"{path}: can't be written ({reason}); give another {key}=")
