"""Stored weights in numpy: names of dtypes, fast copies of transposed views, and a check that values are finite."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import ml_dtypes
import numpy as np

Dtype = Literal["float32", "bfloat16", "float16"]
_EXPONENTS = {"bfloat16": 0x7F80, "float16": 0x7C00}  # the bits of the exponent, all of which are set in NaN and infinities
_TILE = 360  # rows and columns copied at a time: fits a cache; not a power of two, whose rows would compete for few cache lines
_BLOCK = 1 << 18  # values checked at a time, to avoid a second copy of a large weight


def numpy_dtype(dtype: str) -> np.dtype:
    """Returns the numpy dtype of a name such as bfloat16."""
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def widest(dtypes: list[str]) -> Dtype:
    """Returns the most frequent of the dtypes, the first of several; float32 where a model can't be written in that."""
    most = next(iter(Counter(dtypes).most_common(1)), ("float32", 0))[0]
    return most if most in ("bfloat16", "float16") else "float32"  # type: ignore[return-value]


def contiguous(weight: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns `weight` in `dtype` and C-contiguous; without a copy where it is so already."""
    if weight.ndim != 2 or weight.flags.c_contiguous:
        return np.ascontiguousarray(weight, dtype=dtype)
    copy = np.empty(weight.shape, dtype)
    fill(copy, weight)
    return copy


def fill(target: np.ndarray, weight: np.ndarray) -> None:
    """Copies a matrix, possibly a transposed view, tile by tile, each in memory order first: two to five times as fast as at once."""
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
    # In memory order, so that flattening a transposed view copies nothing.
    flat = np.ravel(weight, order="K") if weight.flags.forc else np.ravel(weight)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]
