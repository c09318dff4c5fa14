"""The files of records: which of a folder, and their sha256."""

import contextlib
import glob
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import storage
from alpaca_jax.errors import UserError
from alpaca_jax.records.manifest import MANIFEST
from alpaca_jax.records.record import FILE

KINDS = (".jsonl", ".ndjson", ".json", ".txt", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".zst")
# Data by their names, which may be a large part of a folder's records but can't be read.
UNREADABLE = (
    *(".zip", ".tar", ".tgz", ".bz2", ".xz", ".lz4", ".7z", ".rar", ".br", ".gz", ".zst", ".arrow", ".feather", ".avro", ".orc"),
    *(".tfrecord", ".tfrecords", ".array_record", ".xlsx", ".xls", ".ods", ".sqlite", ".db", ".pkl", ".pickle", ".npy", ".npz", ".h5"),
    *(".xml", ".jsonlines", ".json5", ".part", ".crdownload", ".tmp"),
)


def files(path: str | Path) -> list[Path]:
    """The files of records at `path`, sorted by name: a file, the files of a glob pattern, or a folder's records.jsonl or else its shards.

    The shards of a folder are its files whose names end as KINDS do, plain or compressed (PACKED); records.jsonl may also be in its
    subfolder `records`. On an object store only the last part of a path may be a pattern. A UserError names what else in a folder holds
    records or other data, because they would be left out.
    """
    path = storage.at(path)
    with storage.explained(path):
        return _files(path)


def kind(name: str) -> str:
    """Which of KINDS a file's name ends with, whether or not it is compressed; "" if none."""
    lower = name.lower()
    for packed in PACKED:
        lower = lower.removesuffix(packed)
    return next((each for each in KINDS if lower.endswith(each)), "")


def beside(files: Sequence[Path]) -> list[str]:
    """The names of what else lies in the folder of these files, hidden files and our own manifest left out."""
    folder = files[0].parent
    if storage.is_remote(folder):
        return []
    return sorted(file.name for file in folder.iterdir() if file not in files and file.name != MANIFEST and not file.name.startswith("."))


def sha256(files: Sequence[Path]) -> str:
    """The sha256 (hex) of a file; of several files, that of their sha256s in this order."""
    digests = []
    for file in files:
        with reading(file) as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


@contextlib.contextmanager
def reading(file: Path) -> Iterator[Any]:
    """A file opened for reading its bytes; a UserError where it can't be."""
    with storage.explained(file):
        try:
            opened = file.open("rb")
        except OSError as error:
            if storage.is_remote(file):
                raise
            raise UserError(f"{file}: can't be read ({error.strerror or error}); check the name and who may read it") from error
        with opened:
            yield opened


def _files(path: Path) -> list[Path]:
    choices = [path / FILE, path / "records" / FILE] if path.is_dir() else [path]
    for file in choices:
        if file.is_file():
            if path.is_dir():
                _check_alone(file)
            return [file]
    if path.is_dir():
        found = [file for file in path.iterdir() if not file.name.startswith(".")]
        paths = sorted(file for file in found if kind(file.name) and file.name != MANIFEST and file.is_file())
        choices.append(path / "*.jsonl")
        _check_rest(path, paths, found)
    else:
        matching = path.parent.glob(path.name) if storage.is_remote(path) else map(Path, glob.glob(str(path), recursive=True))
        paths = sorted(file for file in matching if file.is_file())
    if not paths:
        raise UserError(
            f"{path}: no records there (looked for {', '.join(map(str, choices))}). Give data.records=FILE, or run `generate` first."
        )
    return paths


def _check_alone(file: Path) -> None:
    """A UserError where records.jsonl, which would be taken alone, is one of several shards that nobody generated."""
    if (file.parent / MANIFEST).is_file():
        return
    others = sorted(each.name for each in file.parent.iterdir() if kind(each.name) and not each.name.startswith(".") and each.name != FILE)
    if others:
        raise UserError(
            f"{file.parent} holds {FILE} and {_listed(others)}: give data.records={file} for the one alone, or "
            f"data.records='{file.parent}/*' for all of them"
        )


def _check_rest(folder: Path, paths: Sequence[Path], found: Sequence[Path]) -> None:
    """A UserError that names what in a folder holds records, or other data, but would not be read with its shards."""
    unreadable = sorted(file.name for file in found if file not in paths and file.name.lower().endswith(UNREADABLE) and file.is_file())
    if unreadable:
        raise UserError(
            f"{folder}: {_listed(unreadable)} can't be read as records; read are {', '.join(KINDS)}, each plain, .gz or .zst. Unpack or "
            "convert them, move them away, or name the files to read: data.records='FOLDER/*.jsonl'"
        )
    deeper = [file for file in found if file.is_dir() and any(kind(each.name) for each in file.iterdir())] if paths else []
    if deeper:
        raise UserError(
            f"{folder}: there are records in the folder itself and in {_listed(sorted(each.name for each in deeper))}. Read all with a "
            f"pattern (data.records='{folder}/**/*.jsonl'), or those of the folder alone with '{folder}/*.jsonl'"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
