"""Stores of examples that carry what a teacher says of their targets."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from alpaca_jax.data.example import Example, ExampleStore, Features, Item
from alpaca_jax.trainer.objectives.distill import SHARES


@dataclasses.dataclass(frozen=True)
class Told:
    """The examples of a store with flat arrays [targets, ...], whose rows belong to the targets of one example after another.

    `starts` int64 [N + 1] says where those of each example begin. What concerns the prediction of token t + 1 stands at token t.
    """

    store: ExampleStore
    arrays: Mapping[str, np.ndarray]
    starts: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int [N]."""
        return self.store.lengths

    @property
    def features(self) -> Features:
        """Those of the store, and the arrays."""
        return self.store.features | Features(tokens={name: (array.dtype, array.shape[1:]) for name, array in self.arrays.items()})

    def __len__(self) -> int:
        return len(self.store)

    def take(self, indices: Sequence[int]) -> list[Example]:
        """Returns the examples of these numbers, with their part of each array and zeros where there is no target."""
        return [self._told(example, index) for example, index in zip(_single(self.store.take(indices)), indices, strict=True)]

    def _told(self, example: Example, index: int) -> Example:
        places = np.flatnonzero(example.learnt[1:])
        tokens = {}
        for name, array in self.arrays.items():
            tokens[name] = np.zeros((len(example.ids), *array.shape[1:]), array.dtype)
            tokens[name][places] = array[self.starts[index] : self.starts[index + 1]]
        return dataclasses.replace(example, tokens={**example.tokens, **tokens})


@dataclasses.dataclass(frozen=True)
class Shared:
    """The examples of a store with the weight of each teacher at each token; `shares` float32 [N, teachers]."""

    store: ExampleStore
    shares: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int [N]."""
        return self.store.lengths

    @property
    def features(self) -> Features:
        """Those of the store, and the weights."""
        return self.store.features | Features(tokens={SHARES: (self.shares.dtype, self.shares.shape[1:])})

    def __len__(self) -> int:
        return len(self.store)

    def take(self, indices: Sequence[int]) -> list[Example]:
        """Returns the examples of these numbers, with the weights of the teachers."""
        return [
            dataclasses.replace(example, tokens={**example.tokens, SHARES: np.tile(self.shares[index], (len(example.ids), 1))})
            for example, index in zip(_single(self.store.take(indices)), indices, strict=True)
        ]


def starts(store: ExampleStore) -> np.ndarray:
    """Where the targets of each example begin among those of all, int64 [N + 1]."""
    counts = [int(example.learnt[1:].sum()) for first in range(0, len(store), 1024) for example in _some(store, first)]
    return np.cumsum([0, *counts], dtype=np.int64)


def _some(store: ExampleStore, first: int) -> list[Example]:
    return _single(store.take(range(first, min(first + 1024, len(store)))))


def _single(items: Sequence[Item]) -> list[Example]:
    """The items, none of which is a group."""
    return [part for item in items for part in item.parts]
