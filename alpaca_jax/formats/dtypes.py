"""Stored weights as numpy has them: names of dtypes, copies of transposed views, and whether values are finite."""

import itertools
from collections.abc import Iterator
from typing import Literal

import ml_dtypes
import numpy as np

Dtype = Literal["float32", "bfloat16", "float16"]
_EXPONENTS = {"bfloat16": 0x7F80, "float16": 0x7C00}  # the bits of an exponent, all set in NaN and infinities
_TILE = 360  # rows and columns copied at a time: what a cache holds, and no power of two, whose rows would share few of its lines
_BLOCK = 1 << 18  # values at a time: no second copy of a large weight


def numpy_dtype(dtype: str) -> np.dtype:
    """Returns the numpy dtype of a name such as bfloat16."""
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def widest(dtypes: list[str]) -> Dtype:
    """Returns the dtype that the largest part of the given ones has; float32 where that is none a model is written in."""
    most = max(set(dtypes), key=dtypes.count)
    return most if most in ("bfloat16", "float16") else "float32"  # type: ignore[return-value]


def contiguous(weight: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns `weight` in `dtype`, rows whole in memory; itself where it is so already."""
    if weight.ndim != 2 or weight.flags.c_contiguous:
        return np.ascontiguousarray(weight, dtype=dtype)
    copy = np.empty(weight.shape, dtype)
    fill(copy, weight)
    return copy


def fill(target: np.ndarray, weight: np.ndarray) -> None:
    """Copies a matrix, maybe a transposed view: in tiles, each first as it lies in memory, two to five times as fast as all at once."""
    for top, left in itertools.product(range(0, weight.shape[0], _TILE), range(0, weight.shape[1], _TILE)):
        tile = slice(top, top + _TILE), slice(left, left + _TILE)
        target[tile] = weight[tile].copy(order="K")


def finite(weight: np.ndarray) -> bool:
    """Whether no value is NaN or infinite."""
    if weight.dtype.name not in _EXPONENTS:
        return all(np.isfinite(block).all() for block in _blocks(weight))
    mask = np.uint16(_EXPONENTS[weight.dtype.name])
    return all(((block.view(np.uint16) & mask) != mask).all() for block in _blocks(weight))


def _blocks(weight: np.ndarray) -> Iterator[np.ndarray]:
    # In the order of memory, so that flattening a transposed view copies nothing.
    flat = np.ravel(weight, order="K") if weight.flags.forc else np.ravel(weight)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]
