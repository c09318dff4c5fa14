"""When a checkpoint counts as whole: on a disk by its name, on an object store by its manifest, and on both by the hashes in it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alpaca_jax import rundir, storage

MANIFEST = "manifest.json"
DAMAGED = "manifest.damaged.json"  # what the manifest becomes on an object store, of a checkpoint that is set aside
HASH_THREADS = 8


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint in `folder`, ascending."""
    with storage.explained(folder):
        found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(int(path.name) for path in found if whole(path))


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is there, with all that was saved; whether that is damaged since is for `check` to say."""
    with storage.explained(checkpoint):
        return (checkpoint / MANIFEST).exists() if storage.is_remote(checkpoint) else checkpoint.is_dir()


def seal(checkpoint: Path, step: int, meta: dict[str, Any]) -> None:
    """Writes the manifest of a checkpoint whose arrays are written: the hashes that `check` compares."""
    kind = "md5" if storage.is_remote(checkpoint) else "sha256"
    content = {"step": step, "meta": meta, kind: _hashes(checkpoint, kind)}
    rundir.write_json(checkpoint / MANIFEST, content | {"digest": _digest(content)})


def check(checkpoint: Path) -> str | None:
    """None where every file of the checkpoint has the content that was saved, else what is wrong with it.

    A copy on a disk of what was saved on an object store is checked as well, and the other way round.
    """
    absent = f"{MANIFEST} is absent or unreadable"
    try:
        with storage.explained(checkpoint):
            text = (checkpoint / MANIFEST).read_bytes()
    except OSError as error:
        if storage.is_remote(checkpoint) and not isinstance(error, FileNotFoundError):
            raise  # whole as it may be, it can't be read now
        return absent
    try:
        content = json.loads(text)
        kind = "md5" if "md5" in content else "sha256"
        digest, expected = content.pop("digest"), content[kind]
    except (ValueError, KeyError, TypeError, AttributeError):
        return absent
    if digest != _digest(content):
        return f"{MANIFEST} has changed"
    found = _hashes(checkpoint, kind)
    if found != expected and storage.is_remote(checkpoint):
        found = _hashes(checkpoint, kind)  # what comes over a network may be cut off: damage is what shows twice
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"{name} {'is missing' if name not in found else 'was not saved with it' if name not in expected else 'has changed'}"
    return None


def remove(folders: Iterable[Path]) -> None:
    """Deletes folders, those that are there."""
    for folder in folders:
        if storage.is_remote(folder):
            storage.remove(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """What kills left in a folder of checkpoints, of saving or of deleting one."""
    if not storage.is_remote(folder):
        return [*folder.glob(".*.partial*"), *folder.glob(".*.old")]
    with storage.explained(folder):
        found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
        return [path for path in found if not whole(path) and not (path / DAMAGED).exists()]


def set_aside(checkpoint: Path) -> Path:
    """Sees that a damaged checkpoint no longer counts, and returns where it may be looked at."""
    if storage.is_remote(checkpoint):
        with storage.explained(checkpoint):
            (checkpoint / DAMAGED).write_bytes((checkpoint / MANIFEST).read_bytes())
            (checkpoint / MANIFEST).unlink()
        return checkpoint / DAMAGED
    aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(checkpoint, aside)
    return aside


def withdraw(checkpoint: Path) -> Path:
    """Sees that a checkpoint which is to be deleted no longer counts, and returns what is left to delete."""
    if storage.is_remote(checkpoint):
        with storage.explained(checkpoint):
            (checkpoint / MANIFEST).unlink(missing_ok=True)
        return checkpoint
    old = checkpoint.with_name(f".{checkpoint.name}.old")
    os.replace(checkpoint, old)
    return old


def _digest(content: dict[str, Any]) -> str:
    """The sha256 of a manifest's content as JSON keeps it."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode()).hexdigest()


def _hashes(checkpoint: Path, kind: str) -> dict[str, str]:
    """The hashes of a checkpoint's files by name; of what is on a store, those that it keeps, without reading."""
    if storage.is_remote(checkpoint):
        known = {name: found.md5 if kind == "md5" else None for name, found in storage.objects(checkpoint).items()}
    else:
        known = {str(path.relative_to(checkpoint)): None for path in checkpoint.rglob("*") if path.is_file()}
    names = sorted(known.keys() - {MANIFEST, DAMAGED})

    def one(name: str) -> str:
        return known[name] or _hash(checkpoint / name, kind)

    with ThreadPoolExecutor(min(HASH_THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def _hash(path: Path, kind: str) -> str:
    with storage.explained(path), path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
