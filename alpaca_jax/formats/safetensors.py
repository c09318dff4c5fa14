"""Safetensors files, read piece by piece: nobody holds more of a file than what was asked for.

The `safetensors` package checks a file's header; the bytes are read here, at their places. The package maps the whole file instead, and
the pages it has touched count as the process's memory.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from alpaca_jax.errors import UserError
from alpaca_jax.formats.dtypes import numpy_dtype
from alpaca_jax.formats.files import WeightFile
from alpaca_jax.formats.names import Index, whole

NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "U32": "uint32", "U16": "uint16", "U8": "uint8"}


class SafeTensor(NamedTuple):
    """A tensor and where it lies: `offset` counts bytes from the beginning of the file."""

    file: WeightFile
    offset: int
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def header(path: Path) -> dict[str, SafeTensor]:
    """Returns the tensors of a file by name; a UserError where it is truncated or its header lies."""
    try:
        with safe_open(path, framework="numpy"):
            file = WeightFile(path)
        with path.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            entries = json.loads(opened.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error
    entries.pop("__metadata__", None)
    stored = {}
    for name, entry in entries.items():
        if entry["dtype"] not in NAMES:
            raise UserError(f"{path}: {name} is stored as {entry['dtype']}; only {', '.join(NAMES)} can be read")
        start, end = entry["data_offsets"]
        stored[name] = SafeTensor(file, 8 + length + start, tuple(entry["shape"]), NAMES[entry["dtype"]], end - start)
    return stored


def read(tensor: SafeTensor, index: Index = ()) -> np.ndarray:
    """Returns the piece `index` of a tensor. Rows are read alone; of a matrix so are columns."""
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
