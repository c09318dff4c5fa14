"""Runs of words that records share with prompts, found by their hashes and then compared word by word."""

from collections.abc import Iterator, Sequence

import numpy as np

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing


class Grams:
    """All runs of `size` words in the texts of the prompts."""

    def __init__(self, texts: Sequence[Sequence[int]], size: int) -> None:
        self.size = size
        self._prompts: dict[tuple[int, ...], list[int]] = {}
        for number, ids in enumerate(texts):
            for gram in {tuple(ids[start : start + size]) for start in range(len(ids) - size + 1)}:
                self._prompts.setdefault(gram, []).append(number)
        grams = np.array(list(self._prompts), np.uint64).reshape(len(self._prompts), size)
        self._hashes = np.unique(_hashes(grams.T, len(grams)))

    def shared(self, ids: np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """Yields (where in `ids` a run begins, the numbers of the prompts that have it) for words by id, in which 0 is none of theirs."""
        number = len(ids) - self.size + 1
        if number <= 0 or not len(self._hashes):
            return
        wide = ids.astype(np.uint64)
        found = _hashes([wide[start : start + number] for start in range(self.size)], number)
        nearest = np.minimum(np.searchsorted(self._hashes, found), len(self._hashes) - 1)
        for place in np.flatnonzero(self._hashes[nearest] == found):
            if prompts := self._prompts.get(tuple(ids[place : place + self.size].tolist())):
                yield int(place), prompts


def _hashes(columns: Sequence[np.ndarray] | np.ndarray, number: int) -> np.ndarray:
    """A polynomial of the words of each run, modulo 2^64."""
    found = np.zeros(number, np.uint64)
    for column in columns:
        found = found * FACTOR + column
    return found
