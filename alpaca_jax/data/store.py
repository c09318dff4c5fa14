"""The token store: tokenized examples end to end in three flat files, read through a memory map. Needs numpy only.

It is built once and never changed. So the processes of a machine share its pages, and a batch reads only its own tokens.
"""

from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alpaca_jax.data.example import Example, Examples

KINDS = {"ids": np.dtype(np.int32), "learnt": np.dtype(np.bool_)}


def write(folder: Path, name: str, examples: Iterable[Example]) -> int:
    """Writes `folder/name.ids`, `.learnt` and `.offsets.npy`, one example after another; returns the number of examples."""
    offsets = array("q", [0])
    with open(folder / f"{name}.ids", "wb") as ids, open(folder / f"{name}.learnt", "wb") as learnt:
        for example in examples:
            ids.write(example.ids.astype(KINDS["ids"], copy=False).tobytes())
            learnt.write(example.learnt.astype(KINDS["learnt"], copy=False).tobytes())
            offsets.append(offsets[-1] + len(example.ids))
    np.save(folder / f"{name}.offsets.npy", np.frombuffer(offsets, np.int64))
    return len(offsets) - 1


def read(folder: Path, name: str) -> Examples:
    """Returns the examples that `write` wrote, mapped into memory; a ValueError where the sizes of the files don't match."""
    offsets = np.load(folder / f"{name}.offsets.npy")
    flat = {}
    for kind, dtype in KINDS.items():
        path = folder / f"{name}.{kind}"
        size = path.stat().st_size
        if size != int(offsets[-1]) * dtype.itemsize:
            raise ValueError(f"{path.name} has {size} bytes, not {int(offsets[-1]) * dtype.itemsize}")
        # An empty file can't be mapped.
        flat[kind] = np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)
    return Examples(**flat, offsets=offsets)
