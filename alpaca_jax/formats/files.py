"""A file of weights, read by offset: only the requested bytes are read, and nothing stays mapped into memory."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alpaca_jax.errors import UserError

_MOST = 1 << 30  # bytes that one system call may read


class WeightFile:
    """An open file, closed when its last reference is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # bound here, since at exit the module may be gone before the file
        if hasattr(self, "_descriptor"):
            close(self._descriptor)

    def read(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Returns the array at `offset` bytes; a UserError where the file ends within it."""
        array = np.empty(shape, dtype)
        self.fill(offset, array)
        return array

    def fill(self, offset: int, array: np.ndarray) -> None:
        """Reads the bytes at `offset` into a contiguous array."""
        if not array.size:
            return
        view = array.view(np.uint8).reshape(-1).data
        while view:
            count = read_at(self._descriptor, view[:_MOST], offset)
            if not count:
                raise UserError(f"{self.path} ends before its weights do: it was cut off; download it again")
            view, offset = view[count:], offset + count


def read_at(descriptor: int, view: memoryview, offset: int) -> int:
    """Reads the bytes at `offset` of a file into `view` and returns their number. Every weight is read here."""
    return os.preadv(descriptor, [view], offset)
