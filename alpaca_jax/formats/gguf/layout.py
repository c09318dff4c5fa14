"""The layout of a GGUF file: the keys of its header, and where its tensors lie.

Every count, length and offset is compared with the file's size before anything is read or allocated by it. The reader of the `gguf`
package trusts them: a few megabytes cost it gigabytes, and an offset near 2^64 wraps.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # in little-endian order; a later version has not been seen, and the first had other counts
MOST_BYTES = 64 << 20  # of a header: five times that of a vocabulary of 256,000 tokens
MOST_VALUES = 2_000_000  # in all arrays of a header
MOST_DIMENSIONS = 4
SMALLEST_KEY, SMALLEST_TENSOR = 13, 24  # bytes of an entry with an empty name
PLAIN = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}
SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}


class GGUFTensor(NamedTuple):
    """A tensor and its `offset` in bytes from the beginning of the file."""

    offset: int
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    nbytes: int

    @property
    def dtype(self) -> str:
        """bfloat16, Q8_0, ..."""
        return PLAIN[self.kind].name if self.kind in PLAIN else self.kind.name


def parts(path: Path) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """Returns the header's keys and the tensors of a file; a ValueError says what is wrong with it. Nothing of it stays mapped."""
    if path.stat().st_size < len(MAGIC) + 20:
        raise ValueError(f"it ends at byte {path.stat().st_size:,}, within its header")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        cursor = _Cursor(content)
        tensors, keys = _counts(cursor)
        header: dict[str, Any] = {}
        for _ in range(keys):
            name = cursor.text()
            if name in header:
                raise ValueError(f"its header has the key {name[:80]!r} twice")
            header[name] = cursor.value(cursor.number("<I"))
        return header, _tensors(cursor, tensors, header)


class _Cursor:
    """Reads a header from the front to the back."""

    def __init__(self, content: mmap.mmap) -> None:
        self.size, self.at = len(content), 0
        self._content, self._values = content, 0

    def skip(self, count: int) -> int:
        """Returns the place that was reached, and goes on by `count` bytes."""
        start, self.at = self.at, self.at + count
        if self.at > self.size:
            raise ValueError(f"it ends at byte {self.size:,}, and its header points to byte {self.at:,}")
        if self.at > MOST_BYTES:
            raise ValueError(f"its header has more than {MOST_BYTES:,} bytes")
        return start

    def number(self, form: str) -> int:
        """The number in one of the forms of `struct`."""
        (value,) = struct.unpack_from(form, self._content, self.skip(struct.calcsize(form)))
        return int(value)

    def text(self) -> str:
        """A text of UTF-8."""
        length = self.number("<Q")
        start = self.skip(length)
        return self._content[start : start + length].decode("utf-8")

    def value(self, kind: int) -> Any:
        """A value of one of the header's types, whose number comes before it."""
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind != GGUFValueType.ARRAY:
            return self._scalars(kind, 1)[0]
        inner, count = self.number("<I"), self.number("<Q")
        self._values += count
        if self._values > MOST_VALUES:
            raise ValueError(f"its header has arrays of more than {MOST_VALUES:,} values")
        if inner == GGUFValueType.STRING:
            return [self.text() for _ in range(count)]
        return self._scalars(inner, count)

    def _scalars(self, kind: int, count: int) -> list[Any]:
        if kind not in SCALARS:
            raise ValueError(
                f"its header has a value of the type {kind}, which is {'nested' if kind == GGUFValueType.ARRAY else 'not known'}"
            )
        dtype = np.dtype(SCALARS[GGUFValueType(kind)])
        start = self.skip(count * dtype.itemsize)
        return np.frombuffer(self._content[start : self.at], dtype).tolist()


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """The numbers of tensors and keys."""
    magic, version = struct.pack("<I", cursor.number("<I")), cursor.number("<I")
    if magic != MAGIC:
        raise ValueError(f"it begins with {magic!r}, not with {MAGIC!r}")
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise ValueError("a big-endian file: convert it with llama.cpp's gguf_convert_endian.py FILE little")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, and {' and '.join(map(str, VERSIONS))} can be read")
    tensors, keys = cursor.number("<Q"), cursor.number("<Q")
    for what, count, least in (("tensors", tensors, SMALLEST_TENSOR), ("keys", keys, SMALLEST_KEY)):
        if count * least > min(cursor.size, MOST_BYTES) - cursor.at:
            raise ValueError(f"it ends at byte {cursor.size:,}, and claims {count:,} {what}")
    return tensors, keys


def _tensors(cursor: _Cursor, count: int, header: dict[str, Any]) -> dict[str, GGUFTensor]:
    alignment = header.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise ValueError(f"its general.alignment is {alignment!r}, and should be a power of two")
    found: dict[str, GGUFTensor] = {}
    for _ in range(count):
        name = cursor.text()
        if name in found:
            raise ValueError(f"it has the tensor {name[:80]!r} twice")
        found[name] = _tensor(cursor, name)
    start = -(-cursor.at // alignment) * alignment
    for name, tensor in found.items():
        if (end := start + tensor.offset + tensor.nbytes) > cursor.size:
            raise ValueError(f"it ends at byte {cursor.size:,}, and its tensor {name[:80]!r} at byte {end:,}")
    return {name: tensor._replace(offset=start + tensor.offset) for name, tensor in found.items()}


def _tensor(cursor: _Cursor, name: str) -> GGUFTensor:
    """The next tensor, its offset counted from the first one."""
    dimensions = cursor.number("<I")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"its tensor {name[:80]!r} has {dimensions:,} dimensions")
    shape = tuple(reversed([cursor.number("<Q") for _ in range(dimensions)]))  # stored with the fastest dimension first
    number, offset = cursor.number("<I"), cursor.number("<Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise ValueError(f"its tensor {name[:80]!r} is of the type {number}, which is not known") from None
    block, size = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"the rows of its tensor {name[:80]!r} are {shape[-1]:,} values, no whole number of {kind.name}'s blocks")
    return GGUFTensor(offset, shape, kind, math.prod(shape) // block * size)
