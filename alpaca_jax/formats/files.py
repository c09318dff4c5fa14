"""A file of weights, read by place: what is not asked for is not read, and nothing of it stays mapped into memory."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alpaca_jax.errors import UserError

_MOST = 1 << 30  # bytes that one system call is asked for


class WeightFile:
    """An open file, closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # bound here: at exit the module may be gone before the file
        if hasattr(self, "_descriptor"):
            close(self._descriptor)

    def read(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Returns the array that lies at `offset` bytes; a UserError where the file ends before it does."""
        array = np.empty(shape, dtype)
        self.fill(offset, array)
        return array

    def fill(self, offset: int, array: np.ndarray) -> None:
        """Reads into a contiguous array what lies at `offset` bytes."""
        if not array.size:
            return
        view = memoryview(array.view(np.uint8).reshape(-1))
        while view:
            count = read_at(self._descriptor, view[:_MOST], offset)
            if not count:
                raise UserError(f"{self.path} ends before its weights do: it was cut off; fetch it again")
            view, offset = view[count:], offset + count


def read_at(descriptor: int, view: memoryview, offset: int) -> int:
    """Fills `view` with what lies at `offset` of a file and returns how many bytes there were. Every weight is read here."""
    return os.preadv(descriptor, [view], offset)
