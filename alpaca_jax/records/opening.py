"""A file of records as a stream of UTF-8, whatever it is packed in: gzip and Zstandard, byte order marks, UTF-16.

A stream from a stranger may grow without end when it is unpacked: it is refused once it is far larger than what was read of the file.
"""

import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from alpaca_jax.errors import UserError
from alpaca_jax.records.files import reading

BLOCK = 2**16
GROWTH = 100  # bytes that a compressed byte may become: text compresses to a third or a tenth
ALLOWANCE = 64 * 2**20  # and so many more, for files that repeat themselves
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What isn't text, by its first bytes.
FOREIGN = (
    (b"PK\x03\x04", "a zip archive (or an Excel file): unpack it"),
    (PARQUET, "Parquet inside another compression: unpack it"),
    (b"BZh", "bzip2: unpack it, or pack it with gzip"),
    (b"\xfd7zXZ\x00", "xz: unpack it, or pack it with gzip"),
    (b"\x04\x22\x4d\x18", "lz4: unpack it, or pack it with gzip"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (GZIP, "gzip inside gzip or Zstandard: unpack it once"),
    (ZSTD, "Zstandard inside gzip or Zstandard: unpack it once"),
    (b"ARROW1", "an Arrow file: write it as Parquet or as JSON lines"),
    (b"FEA1", "a Feather file: write it as Parquet or as JSON lines"),
    (b"Obj\x01", "an Avro file: write it as Parquet or as JSON lines"),
    (b"ORC", "an ORC file: write it as Parquet or as JSON lines"),
    (b"SQLite format 3", "an SQLite database: write its table as JSON lines"),
    (b"\x89HDF", "an HDF5 file: write it as Parquet or as JSON lines"),
    (b"\x93NUMPY", "a NumPy array: write it as JSON lines"),
    (b"%PDF", "a PDF: take its text out"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: fetch that with `git lfs pull`"),
)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """The content of a file, unpacked and as UTF-8 without a byte order mark; a UserError where it isn't text, or unpacks to too much."""
    with reading(file) as plain, contextlib.ExitStack() as stack:
        try:
            head = plain.read(4)
            plain.seek(0)
            content = stack.enter_context(_unpacked(file, plain, head))
            yield _as_utf8(file, content)
        except UnicodeDecodeError as problem:
            raise UserError(f"{file}: not whole {problem.encoding} text ({problem.reason}). Write it again, as UTF-8.") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
            raise UserError(f"{file}: not a whole gzip file ({problem}). It may be cut off: download or generate it again.") from None


def is_parquet(file: Path) -> bool:
    """Whether a file begins as Parquet does."""
    with reading(file) as plain:
        return bool(plain.read(4) == PARQUET)


@contextlib.contextmanager
def _unpacked(file: Path, plain: BinaryIO, head: bytes) -> Iterator[io.BufferedReader]:
    name = file.name.lower()
    if head.startswith(GZIP):
        with gzip.GzipFile(fileobj=plain) as content:
            yield io.BufferedReader(_Bounded(file, content, plain), BLOCK)
    elif head == ZSTD:
        with _zstd(file, plain) as content:
            yield io.BufferedReader(_Bounded(file, content, plain), BLOCK)
    elif head and name.endswith(".gz"):
        raise UserError(f"{file}: not a whole gzip file (it begins with {head!r}). If it isn't packed, rename it without .gz")
    elif head and name.endswith(".zst"):
        raise UserError(f"{file}: not a Zstandard file (it begins with {head!r}). If it isn't packed, rename it without .zst")
    else:
        yield io.BufferedReader(cast(io.RawIOBase, plain), BLOCK)


@contextlib.contextmanager
def _zstd(file: Path, plain: BinaryIO) -> Iterator[Any]:
    import pyarrow

    try:
        with pyarrow.CompressedInputStream(pyarrow.PythonFile(plain, "r"), "zstd") as content:
            yield content
    except (pyarrow.ArrowException, OSError) as problem:
        if isinstance(problem, UserError) or getattr(problem, "errno", None):
            raise
        raise UserError(f"{file}: not a whole Zstandard file ({problem}). It may be cut off: download or generate it again.") from None


class _Bounded(io.RawIOBase):
    """What is unpacked from `plain`, up to ALLOWANCE and GROWTH times what was read of it."""

    def __init__(self, file: Path, content: Any, plain: BinaryIO) -> None:
        self._file, self._content, self._plain, self._size = file, content, plain, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._content.read(len(buffer))
        self._size += len(block)
        packed = self._plain.tell()
        if self._size > ALLOWANCE + GROWTH * packed:
            raise UserError(
                f"{self._file}: {packed:,} bytes of it unpack to more than {self._size:,}, as no text does. If it is what it should be, "
                "unpack it first"
            )
        buffer[: len(block)] = block
        return len(block)


class _Utf8(io.RawIOBase):
    """Text of another encoding as UTF-8."""

    def __init__(self, content: BinaryIO, encoding: str) -> None:
        self._content, self._decoder, self._waiting = content, codecs.getincrementaldecoder(encoding)(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting:
            block = self._content.read(BLOCK)
            self._waiting = self._decoder.decode(block, final=not block).removeprefix("\ufeff").encode()
            if not block:
                break
        taken, self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def _as_utf8(file: Path, content: io.BufferedReader) -> BinaryIO:
    head = content.peek(BLOCK)[:512]
    for magic, what in FOREIGN:
        if head.startswith(magic):
            raise UserError(f"{file}: this is {what}, and give that as data.records")
    if head[257:262] == b"ustar":
        raise UserError(f"{file}: this is a tar archive: unpack it, and give the files in it as data.records")
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise UserError(f"{file}: this is a page of the web (HTML or XML), not records: download the file that it shows")
    encoding = next((encoding for mark, encoding in ENCODINGS if head.startswith(mark)), None)
    if encoding is None and len(head) > 3 and 0 in head[:4]:  # ASCII in two bytes each
        encoding = {(1, 0, 1, 0): "utf-16-le", (0, 1, 0, 1): "utf-16-be"}.get((head[0] > 0, head[1] > 0, head[2] > 0, head[3] > 0))
        if encoding is None:
            raise UserError(f"{file}: this is no text (it begins with {head[:8]!r})")
    if encoding is not None:
        return io.BufferedReader(_Utf8(content, encoding), BLOCK)
    if head.startswith(codecs.BOM_UTF8):
        content.read(len(codecs.BOM_UTF8))
    return content
