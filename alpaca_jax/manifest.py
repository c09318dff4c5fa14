"""The manifest of a checkpoint: the hashes of its files, and when a checkpoint counts as whole.

On a disk a checkpoint is whole when its folder has its final name; on an object store, when its manifest is there. The hashes say on both
whether it is still what was saved. (The manifest of a records file is `records.Manifest`.)
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alpaca_jax import documents, rundir, storage

MANIFEST = "manifest.json"
DAMAGED = "manifest.damaged.json"  # the name of the manifest after its checkpoint was set aside on an object store
HASH_THREADS = 8


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint in `folder`, ascending."""
    with storage.explained(folder):
        folders = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(int(path.name) for path in folders if whole(path))


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was saved completely; `check` says whether it is still undamaged."""
    with storage.explained(checkpoint):
        return (checkpoint / MANIFEST).exists() if storage.is_remote(checkpoint) else checkpoint.is_dir()


def seal(checkpoint: Path, step: int, meta: dict[str, Any]) -> None:
    """Writes the manifest of a checkpoint whose arrays are written, with the hashes that `check` compares."""
    kind = "md5" if storage.is_remote(checkpoint) else "sha256"
    content = {"step": step, "meta": meta, kind: _hashes(checkpoint, kind)}
    rundir.write_json(checkpoint / MANIFEST, content | {"digest": _digest(content)})


def check(checkpoint: Path) -> str | None:
    """None where every file of the checkpoint has the content that was saved, otherwise what is wrong with it.

    Checks also a copy on a disk of a checkpoint saved on an object store, and the other way round.
    """
    absent = f"{MANIFEST} is absent or unreadable"
    try:
        with storage.explained(checkpoint):
            text = (checkpoint / MANIFEST).read_bytes()
    except OSError as error:
        if storage.is_remote(checkpoint) and not isinstance(error, FileNotFoundError):
            raise  # it can't be read now, which doesn't mean that it is damaged
        return absent
    try:
        content = documents.json_value(text)
        kind = "md5" if "md5" in content else "sha256"
        digest, expected = content.pop("digest"), content[kind]
    except (ValueError, KeyError, TypeError, AttributeError):
        return absent
    if digest != _digest(content):
        return f"{MANIFEST} has changed"
    actual = _hashes(checkpoint, kind)
    if actual != expected and storage.is_remote(checkpoint):
        actual = _hashes(checkpoint, kind)  # a download may have been cut off: damage shows twice
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            return f"{name} {'is missing' if name not in actual else 'was not saved with it' if name not in expected else 'has changed'}"
    return None


def remove(folders: Iterable[Path]) -> None:
    """Deletes those of the folders that exist."""
    for folder in folders:
        if storage.is_remote(folder):
            storage.remove(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """What killed processes left in a folder of checkpoints while they saved or deleted one."""
    if not storage.is_remote(folder):
        return [*folder.glob(".*.partial*"), *folder.glob(".*.old")]
    with storage.explained(folder):
        folders = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
        return [path for path in folders if not whole(path) and not (path / DAMAGED).exists()]


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint, so that it no longer counts, and returns its new place (on an object store, its manifest's)."""
    if storage.is_remote(checkpoint):
        with storage.explained(checkpoint):
            (checkpoint / DAMAGED).write_bytes((checkpoint / MANIFEST).read_bytes())
            (checkpoint / MANIFEST).unlink()
        return checkpoint / DAMAGED
    damaged = checkpoint.with_name(f"{checkpoint.name}.damaged")
    shutil.rmtree(damaged, ignore_errors=True)
    os.replace(checkpoint, damaged)
    return damaged


def withdraw(checkpoint: Path) -> Path:
    """Makes a checkpoint no longer count before it is deleted, and returns the folder to delete."""
    if storage.is_remote(checkpoint):
        with storage.explained(checkpoint):
            (checkpoint / MANIFEST).unlink(missing_ok=True)
        return checkpoint
    old = checkpoint.with_name(f".{checkpoint.name}.old")
    os.replace(checkpoint, old)
    return old


def _digest(content: dict[str, Any]) -> str:
    """The sha256 of a manifest's content as it reads back from JSON."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode()).hexdigest()


def _hashes(checkpoint: Path, kind: str) -> dict[str, str]:
    """The hashes of a checkpoint's files by name; where an object store keeps md5s, these, without reading the files."""
    if storage.is_remote(checkpoint):
        known = {name: entry.md5 if kind == "md5" else None for name, entry in storage.objects(checkpoint).items()}
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
