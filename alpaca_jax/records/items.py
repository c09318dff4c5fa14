"""The items of a file of records, one at a time: JSON lines, the elements of a JSON array, rows of a table, a whole text.

Nothing but one item is held in memory, except a .txt file. What isn't a file of records is refused by what it is.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.records import tables
from alpaca_jax.records.array import elements
from alpaca_jax.records.files import kind
from alpaca_jax.records.opening import BLOCK, is_parquet, opened

LONGEST = 16 * 2**20  # bytes of a record, more than a long book
BLANK = 1_000_000  # empty lines in a row
PEEKED = 4 * 2**20  # of a file whose first line isn't JSON, to see what it is

Item = tuple[str, Callable[[], Any]]


def items(file: Path) -> Iterator[Item]:
    """Yields (place, function that loads it) of each item; the function raises a ValueError where the item is broken."""
    if kind(file.name) == ".parquet" or is_parquet(file):
        yield from tables.parquet(file)
        return
    with opened(file) as content:
        if kind(file.name) == ".txt":
            yield from _document(content)
        elif kind(file.name) in (".csv", ".tsv"):
            yield from tables.csv(file, content, LONGEST)
        else:
            yield from _json(file, content)


def check(files: list[Path] | tuple[Path, ...]) -> None:
    """Reads the beginning of each file; a UserError names those that hold no records, and what they are instead."""
    problems = []
    for file in files:
        try:
            next(items(file), None)
        except UserError as problem:
            problems.append(str(problem))
    if problems:
        raise UserError("\n".join([*problems[:8], *([f"and {len(problems) - 8} files more"] if len(problems) > 8 else [])]))


def _document(content: BinaryIO) -> Iterator[Item]:
    text = content.read()
    if text:  # an empty file is an empty shard
        yield "its text", lambda: {"text": _decoded(text)}


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as problem:
        raise ValueError(f"not UTF-8 (byte {text[problem.start]:#04x}): write it again as UTF-8") from None


def _json(file: Path, content: BinaryIO) -> Iterator[Item]:
    before = _skip_blank(file, content)
    if content.peek(1)[:1] == b"[":  # type: ignore[attr-defined]
        for number, element in enumerate(elements(file, content, LONGEST), start=1):
            yield f"record {number}", element
        return
    first = True
    for number, line in lines(file, content, before + 1):
        if first:
            _check_first(file, line)
            first = False
        yield f"line {number}", partial(_parsed, line)


def lines(file: Path, content: BinaryIO, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yields (number, line without its end) of all lines that aren't blank; a UserError where one is too long, or too many are blank."""
    blank = 0
    for number in itertools.count(first):
        line = content.readline(LONGEST + 1)
        if not line:
            return
        if len(line) > LONGEST:
            raise UserError(f"{file}, line {number}: longer than {LONGEST:,} bytes, which no record is: {_ends(line)}")
        line = line.rstrip(b"\r\n")
        if line.strip():
            blank = 0
            yield number, line
        elif (blank := blank + 1) > BLANK:
            raise UserError(f"{file}, line {number}: more than {BLANK:,} empty lines in a row; this is no file of records")


def _ends(line: bytes) -> str:
    if b"\r" in line:
        return "its lines end in CR alone. Convert it: tr '\\r' '\\n' < FILE > OTHER.jsonl"
    return "give one record a line, or a JSON array of records"


def _skip_blank(file: Path, content: Any) -> int:
    """Reads up to the first line that isn't blank; returns the number of lines before it."""
    count = 0
    while (block := content.peek(BLOCK)) and not block.strip():
        count += block.count(b"\n")
        content.read(len(block))
        if count > BLANK:
            raise UserError(f"{file}: more than {BLANK:,} empty lines in a row; this is no file of records")
    start = block[: len(block) - len(block.lstrip())]
    content.read(len(start))
    return count + start.count(b"\n")


def _parsed(line: bytes) -> Any:
    try:
        return documents.json_value(line)
    except ValueError as problem:
        raise ValueError(str(problem).removeprefix("line 1: ")) from None


def _check_first(file: Path, line: bytes) -> None:
    """A UserError that says what a file is that holds one JSON object, pretty-printed or around its records, or whose lines end in CR."""
    whole = _object(line)
    if whole is None and _is_json(line):
        return
    if b"\r" in line and _object(line.split(b"\r")[0]) is not None:
        raise UserError(f"{file}: its lines end in CR alone, as on an old Mac. Convert it: tr '\\r' '\\n' < FILE > OTHER.jsonl")
    with opened(file) as content:
        beginning = content.read(PEEKED)
    item = _object(beginning)
    if item is None and _is_open(line) and not _is_json(_second(beginning)):
        raise UserError(
            f"{file}: this is one JSON value over many lines (pretty-printed), or cut off in its first record. Write each record on a "
            "line of its own: jq -c . FILE > OTHER.jsonl"
        )
    alone = len(beginning) < PEEKED and beginning.strip() == line.strip()
    if item is not None and (whole is None or alone) and (name := wrapping(item)) is not None:
        raise UserError(
            f"{file}: the records lie in a list under {name!r}, inside one object. Take them out: jq -c '.{name}[]' FILE > OTHER.jsonl"
        )
    if item is not None and whole is None:
        raise UserError(
            f"{file}: a pretty-printed JSON object, over several lines. Write each record on a line of its own: jq -c . FILE > OTHER.jsonl"
        )


def wrapping(item: Any) -> str | None:
    """Returns the key of a JSON object under which a list of records lies, if it is no record itself."""
    if not isinstance(item, dict) or {"instruction", "messages", "conversations", "text", "output"} & set(item):
        return None
    return next((str(name) for name, value in item.items() if isinstance(value, list) and value and isinstance(value[0], dict)), None)


def _object(text: bytes) -> Any:
    """The JSON object with which a text begins, or None."""
    try:
        found, _ = json.JSONDecoder().raw_decode(text.decode(errors="replace").lstrip())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _second(beginning: bytes) -> bytes:
    """The second line of a text that isn't blank."""
    return next(itertools.islice((line for line in beginning.splitlines() if line.strip()), 1, None), b"")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_open(line: bytes) -> bool:
    return line.strip() in (b"{", b"{{") or (line.strip().startswith(b"{") and line.rstrip().endswith((b"{", b"[", b",")))
