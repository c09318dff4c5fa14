"""Safetensors files, read piece by piece: only the requested part of a file is in memory.

The `safetensors` package checks a file's header, and the bytes are read here by their offsets. The package itself would map the whole
file, and the pages it touches count as the process's memory.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.formats.dtypes import numpy_dtype
from alpaca_jax.formats.files import WeightFile
from alpaca_jax.formats.names import Index, whole

NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
MOST_BYTES = 8 << 20  # of a header: that of 50,000 tensors


class SafeTensor(NamedTuple):
    """A tensor and its `offset` in bytes from the beginning of the file."""

    file: WeightFile
    offset: int
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def header(path: Path) -> dict[str, SafeTensor]:
    """Returns the tensors of a file by name; a UserError where it is truncated, its header is wrong, or a tensor holds no plain numbers."""
    try:
        length, entries = _entries(path)
        with safe_open(path, framework="numpy"):  # compares the header with the file
            file = WeightFile(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); download it again") from error
    stored = {}
    for name, entry in entries.items():
        if entry["dtype"] not in NAMES:
            raise UserError(
                f"{path}: {name} is stored as {entry['dtype']}; only {', '.join(NAMES)} can be read (quantised weights only from GGUF "
                "files): give the full weights"
            )
        start, end = entry["data_offsets"]
        stored[name] = SafeTensor(file, 8 + length + start, tuple(entry["shape"]), NAMES[entry["dtype"]], end - start)
    return stored


def _entries(path: Path) -> tuple[int, dict[str, Any]]:
    """The length of the header, and its entries without the metadata; a ValueError where it is too long or no list of tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_BYTES:
            raise ValueError(f"it claims a header of {length:,} bytes, more than any has")
        content = file.read(length)
    if not isinstance(documents.json_value(content), dict):  # its depth and its characters as well
        raise ValueError("its header is no list of tensors")
    entries = json.loads(content, object_pairs_hook=_once)
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"} or not isinstance(entry["dtype"], str):
            raise ValueError(f"its header has {name[:80]!r}, which is no tensor")
    return length, entries


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"its header names {name[:80]!r} twice")
    return known


def read(tensor: SafeTensor, index: Index = ()) -> np.ndarray:
    """Returns the piece `index` of a tensor; reads only its rows and, of a matrix, only its columns."""
    if not tensor.shape:
        return tensor.file.read(tensor.offset, (), numpy_dtype(tensor.dtype))
    rows, *others = whole(index, tensor.shape)
    dtype = numpy_dtype(tensor.dtype)
    row = math.prod(tensor.shape[1:]) * dtype.itemsize
    count, start = rows.stop - rows.start, tensor.offset + rows.start * row
    if len(tensor.shape) == 2 and others[0] != slice(0, tensor.shape[1]):
        piece = np.empty((count, others[0].stop - others[0].start), dtype)
        for number in range(count):
            tensor.file.fill(start + number * row + others[0].start * dtype.itemsize, piece[number])
        return piece
    return tensor.file.read(start, (count, *tensor.shape[1:]), dtype)[:, *others]
