"""Tables of records: CSV and TSV by Python's reader, Parquet by pyarrow; a column is a key."""

import csv as reader
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from alpaca_jax import storage
from alpaca_jax.errors import UserError
from alpaca_jax.records.files import reading
from alpaca_jax.records.opening import ALLOWANCE, GROWTH

AT_ONCE = 256  # rows of Parquet
DELIMITERS = (",", "\t", ";")
BLANK = 1_000_000  # empty lines in a row

Item = tuple[str, Callable[[], Any]]


def csv(file: Path, content: BinaryIO, longest: int) -> Iterator[Item]:
    """Yields the rows of a CSV or TSV file whose first row names the columns, as texts; a UserError where it isn't one."""
    reader.field_size_limit(longest)
    text = io.TextIOWrapper(content, encoding="utf-8", newline="")
    try:
        lines = _lines(file, text, longest)
        header = next(lines, "")
        delimiter = max(DELIMITERS, key=header.count)
        rows = reader.reader(_chain(header, lines), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(rows, [])]
        if names and len(set(names)) < len(names):
            raise UserError(f"{file}: its first row names a column twice ({', '.join(names)}); the first row of a table names its columns")
        for row in rows:
            if row:
                yield f"line {rows.line_num}", partial(_row, names, row)
    except (reader.Error, UnicodeDecodeError) as problem:
        reason = f"byte {problem.object[problem.start]:#04x} is not UTF-8" if isinstance(problem, UnicodeDecodeError) else str(problem)
        raise UserError(f"{file}: not a whole table ({reason}). Write it again, as UTF-8 or as JSON lines.") from None
    finally:
        text.detach()


def _row(names: list[str], row: list[str]) -> dict[str, str]:
    if len(row) != len(names):
        raise ValueError(f"{len(row)} values, where the first row names {len(names)} columns ({', '.join(names)[:200]})")
    return dict(zip(names, row, strict=True))


def _chain(header: str, lines: Iterator[str]) -> Iterator[str]:
    yield header
    yield from lines


def _lines(file: Path, text: io.TextIOWrapper, longest: int) -> Iterator[str]:
    blank = 0
    while line := text.readline(longest + 1):
        if len(line) > longest:
            raise UserError(f"{file}: it has a line of more than {longest:,} characters, which no record is")
        blank = 0 if line.strip() else blank + 1
        if blank > BLANK:
            raise UserError(f"{file}: more than {BLANK:,} empty lines in a row; this is no file of records")
        yield line


def parquet(file: Path) -> Iterator[Item]:
    """Yields the rows of a Parquet file; a UserError where it isn't one, or claims to hold far more than its size allows."""
    import pyarrow
    from pyarrow import parquet

    with reading(file) as opened:
        try:
            table = parquet.ParquetFile(opened)
            _check_size(file, table.metadata)
            number = size = 0
            for batch in table.iter_batches(AT_ONCE):
                size += batch.nbytes
                _check_growth(file, "bytes", size)
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", partial(dict, row)
        except (pyarrow.ArrowException, OSError, ValueError) as problem:  # among them a text that is no UTF-8
            if isinstance(problem, UserError) or getattr(problem, "errno", None):
                raise
            reason = " ".join(str(problem).split())[:200]
            raise UserError(f"{file}: not a whole Parquet file ({reason}). Download it again, or write it anew.") from None


def _check_size(file: Path, metadata: Any) -> None:
    _check_growth(file, "rows", metadata.num_rows)
    _check_growth(file, "bytes", sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)))


def _check_growth(file: Path, what: str, number: int) -> None:
    size = storage.size(file)
    if not 0 <= number <= ALLOWANCE + GROWTH * size:
        raise UserError(f"{file}: its {size:,} bytes hold {number:,} {what} or more, as no file of texts does; it is damaged")
