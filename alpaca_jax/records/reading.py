"""Files of records as a stream of records."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from alpaca_jax.errors import UserError
from alpaca_jax.records.files import files, sha256
from alpaca_jax.records.items import items
from alpaca_jax.records.record import OnError, Record
from alpaca_jax.records.shapes import record

BROKEN = 100_000  # records that are skipped before the first whole one
KEYS = 40  # different unknown keys that are counted


@dataclasses.dataclass(frozen=True)
class Records:
    """The content of files: records in order, the numbers of skipped and of shortened ones, the sha256 of the files."""

    records: list[Record]
    skipped: int
    shortened: int
    sha256: str


def read(path: str | Path, on_error: OnError = "stop") -> Records:
    """All records of the files at `path`, in memory."""
    paths, counted = files(path), Counter[str]()
    return Records(list(stream(paths, on_error, counted)), counted["skipped"], counted["shortened"], sha256(paths))


def stream(files: Sequence[Path], on_error: OnError, counted: Counter[str]) -> Iterator[Record]:
    """Yields the records of JSONL files (ours, Alpaca's, `messages`, ShareGPT, texts), JSON arrays, tables and .txt files, one at a time.

    Only .txt files are held in memory as a whole. A broken record raises a UserError that names the file and the line (in an array the
    record's number, from 1); with `on_error="skip"` it is counted in `skipped` instead. What else is counted: see `shapes.record`.
    """
    count, skipped = 0, counted["skipped"]
    for file in files:
        for where, load in items(file):
            noted = Counter[str]()
            try:
                made = record(load(), f"{file}, {where}", noted)
            except UserError:
                raise
            except ValueError as problem:
                if on_error == "stop":
                    raise UserError(f"{file}, {where}: {problem}. Repair it, or leave such records out with data.on_error=skip.") from None
                counted["skipped"] += 1
                if not count and counted["skipped"] - skipped >= BROKEN:
                    raise UserError(f"{file}: its first {BROKEN:,} records are broken, the last one because {problem}") from None
                continue
            count += 1
            _add(noted, counted)
            yield made
    if not count:
        broken = counted["skipped"] - skipped
        reason = f"all its {broken} records are broken" if broken else "it is empty"
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise UserError(f"{files[0]}{more}: no record in it ({reason}). Expected a JSON object on each line, or an Alpaca JSON array.")


def _add(noted: Counter[str], counted: Counter[str]) -> None:
    for name, number in noted.items():
        if number and (name in counted or not name.startswith("key ") or sum(key.startswith("key ") for key in counted) < KEYS):
            counted[name] += number
