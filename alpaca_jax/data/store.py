"""The token store: tokenized examples end to end in three flat files, read through a memory map. Needs numpy only.

Built once and never changed, so every process of a machine shares its pages, and a batch costs a read of its own tokens.
"""

import dataclasses
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from alpaca_jax.data.example import Example

KINDS = {"ids": np.dtype(np.int32), "learnt": np.dtype(np.bool_)}


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """Examples by number: `ids` int32 and `learnt` bool [total tokens] on disk, `offsets` int64 [N + 1] in memory."""

    ids: np.ndarray
    learnt: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, indices: Sequence[int]) -> list[Example]:
        """Returns the examples of these numbers; may be called from several threads."""
        places = [slice(self.offsets[i], self.offsets[i + 1]) for i in indices]
        return [Example(np.array(self.ids[place]), np.array(self.learnt[place])) for place in places]

    def largest_id(self) -> int:
        """Returns the largest token id in the store; reads all of it."""
        return int(self.ids.max()) if len(self.ids) else -1


def write(folder: Path, name: str, examples: Iterable[Example]) -> int:
    """Writes `folder/name.ids`, `.learnt` and `.offsets.npy`, one example after another, and returns how many there are."""
    offsets = array("q", [0])
    with open(folder / f"{name}.ids", "wb") as ids, open(folder / f"{name}.learnt", "wb") as learnt:
        for example in examples:
            ids.write(example.ids.astype(KINDS["ids"], copy=False).tobytes())
            learnt.write(example.learnt.astype(KINDS["learnt"], copy=False).tobytes())
            offsets.append(offsets[-1] + len(example.ids))
    np.save(folder / f"{name}.offsets.npy", np.frombuffer(offsets, np.int64))
    return len(offsets) - 1


def read(folder: Path, name: str) -> TokenStore:
    """Returns the store that `write` made; a ValueError where the files don't fit together."""
    offsets = np.load(folder / f"{name}.offsets.npy")
    flat = {}
    for kind, dtype in KINDS.items():
        path = folder / f"{name}.{kind}"
        size = path.stat().st_size
        if size != int(offsets[-1]) * dtype.itemsize:
            raise ValueError(f"{path.name} has {size} bytes, not {int(offsets[-1]) * dtype.itemsize}")
        # An empty file can't be mapped.
        flat[kind] = np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)
    return TokenStore(**flat, offsets=offsets)
