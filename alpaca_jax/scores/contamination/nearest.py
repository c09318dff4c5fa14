"""The record with the highest ROUGE-L for each prompt, exactly, without computing it for every pair."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

BLOCK = 64  # candidates compared at once


class Nearest:
    """For each prompt the highest ROUGE-L F1 (Lin 2004) of any record so far, and the number of that record.

    Texts are strings with a character a word, so that the normalised Indel similarity, 2 LCS / (m + n), is ROUGE-L. It is at most
    2 C / (m + n) with C words in common, each as often as both texts have it. This bound is one product of sparse matrices for all pairs.
    Records are compared in its order, until it falls to the best that was found.
    """

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        self.best = np.zeros(len(prompts))
        self.record = np.full(len(prompts), -1)
        self._strings = [_string(ids) for ids in prompts]
        self._lengths = np.array([len(ids) for ids in prompts], np.float32)
        self._columns: dict[tuple[int, int], int] = {}
        self._words = self._matrix(prompts, new=True)

    def add(self, records: Sequence[Sequence[int]], lengths: Sequence[int], first: int) -> None:
        """Compares records `first` and following: their words by id (0 for those that no prompt has), and how many words each has."""
        strings = [_string(ids) for ids in records]
        common = (self._words @ self._matrix(records).T).tocsr()
        sizes = np.asarray(lengths, np.float32)
        for prompt, text in enumerate(self._strings):
            row = slice(common.indptr[prompt], common.indptr[prompt + 1])
            where = common.indices[row]
            bounds = 2 * common.data[row] / (self._lengths[prompt] + sizes[where])
            self._compare(prompt, text, where, bounds, strings, first)

    def _compare(self, prompt: int, text: str, where: np.ndarray, bounds: np.ndarray, strings: Sequence[str], first: int) -> None:
        """Compares a prompt with the records `where`, those with the highest bounds first, until none is above the best."""
        while len(where):
            order = np.argpartition(-bounds, BLOCK) if len(where) > BLOCK else np.arange(len(where))
            candidates, rest = where[order[:BLOCK]], order[BLOCK:]
            best = self.best[prompt]
            found = process.extractOne(text, [strings[each] for each in candidates], scorer=Indel.normalized_similarity, score_cutoff=best)
            if found is not None and found[1] > best:
                self.best[prompt], self.record[prompt] = found[1], first + candidates[found[2]]
            rest = rest[bounds[rest] > self.best[prompt]]
            where, bounds = where[rest], bounds[rest]

    def _matrix(self, texts: Sequence[Sequence[int]], new: bool = False) -> Any:
        """Texts x (word, how often it came before in the text): the product of two such rows counts the words in common."""
        import scipy.sparse

        rows, columns = [], []
        for number, ids in enumerate(texts):
            seen: dict[int, int] = {}
            for id in ids:
                if id:
                    count = seen[id] = seen.get(id, 0) + 1
                    if new:
                        column = self._columns.setdefault((id, count), len(self._columns))
                    elif (column := self._columns.get((id, count), -1)) < 0:
                        continue
                    rows.append(number)
                    columns.append(column)
        return scipy.sparse.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(texts), len(self._columns)))


def _string(ids: Sequence[int]) -> str:
    """A character a word, without the surrogates, which are no characters."""
    return "".join([chr(id if id < 0xD800 else id + 0x800) for id in ids])
