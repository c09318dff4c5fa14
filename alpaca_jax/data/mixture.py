"""Mixtures: several stores of examples in one run, each repeated as its epochs or its weight say. Needs numpy only."""

import functools
import operator
from collections.abc import Mapping, Sequence

import numpy as np

from alpaca_jax.data.config import SourceConfig
from alpaca_jax.data.example import ExampleStore, Features, Item
from alpaca_jax.errors import UserError


class Concatenated:
    """Several stores as one: the examples of the first, then those of the second, and so on."""

    def __init__(self, stores: Sequence[ExampleStore]) -> None:
        self.stores = list(stores)
        self.lengths = np.concatenate([np.zeros(0, np.int64), *(store.lengths for store in self.stores)])
        self.offsets = np.cumsum([0, *(len(store) for store in self.stores)], dtype=np.int64)
        self.features = functools.reduce(operator.or_, (store.features for store in self.stores), Features())

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def take(self, indices: Sequence[int]) -> list[Item]:
        """Returns the examples of these numbers, in this order; each store is read once."""
        numbers = np.asarray(indices, np.int64)
        owners = np.searchsorted(self.offsets, numbers, side="right") - 1
        taken: dict[int, Item] = {}
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            taken |= zip(places.tolist(), self.stores[owner].take((numbers[places] - self.offsets[owner]).tolist()), strict=True)
        return [taken[place] for place in range(len(numbers))]


class Mixture(Concatenated):
    """Several stores as one, and how often an epoch of the run repeats the examples of each.

    1.1 epochs of a store: every example once, and a random tenth, another one in each epoch, twice. An epoch has `epoch_size` examples.
    """

    def __init__(self, stores: Mapping[str, ExampleStore], epochs: Mapping[str, float]) -> None:
        """`epochs`: by the names of the stores; a UserError where a store is empty or none of its examples would be used."""
        super().__init__(list(stores.values()))
        self.names = tuple(stores)
        for name, store in stores.items():
            if not len(store):
                raise UserError(f"data.sources.{name} has no examples: give records that make some, or leave the source out")
        self.drawn = {name: round(epochs[name] * len(store)) for name, store in stores.items()}
        for name, store in stores.items():
            if not self.drawn[name]:
                raise UserError(
                    f"data.sources.{name}: {epochs[name]:g} epochs of its {len(store)} examples use none of them: "
                    f"give at least {1 / len(store):.2g} epochs (or a larger weight), or leave the source out"
                )
        self.epoch_size = sum(self.drawn.values())

    @classmethod
    def weighted(cls, stores: Mapping[str, ExampleStore], weights: Mapping[str, float]) -> "Mixture":
        """Returns the mixture in which a store's share of the tokens is its weight; an epoch has the tokens of all stores together."""
        tokens = {name: int(np.sum(store.lengths, dtype=np.int64)) for name, store in stores.items()}
        unit = sum(tokens.values()) / sum(weights[name] for name in stores)
        return cls(stores, {name: weights[name] * unit / max(tokens[name], 1) for name in stores})

    @classmethod
    def configured(cls, stores: Mapping[str, ExampleStore], sources: Mapping[str, SourceConfig]) -> "Mixture":
        """Returns the mixture that `data.sources` describes."""
        weights = {name: source.weight for name, source in sources.items() if source.weight is not None}
        if weights:
            return cls.weighted(stores, weights)
        return cls(stores, {name: source.epochs for name, source in sources.items() if source.epochs is not None})

    def chosen(self, seed: int, epoch: int) -> np.ndarray:
        """Returns the examples of an epoch, int64 [epoch_size], some more than once, source by source; a function of (seed, epoch)."""
        return np.concatenate([self._chosen(number, seed, epoch) for number in range(len(self.names))])

    def repeated(self) -> np.ndarray:
        """Returns the tokens of all examples, int64 [n], each as often as an epoch may hold it."""
        times = [-(-self.drawn[name] // len(store)) for name, store in zip(self.names, self.stores, strict=True)]
        return np.concatenate([np.tile(store.lengths, count) for store, count in zip(self.stores, times, strict=True)])

    def table(self) -> list[dict[str, str | int | float]]:
        """Returns a row for each source: examples, tokens, how often an epoch of the run repeats it, its expected share of the tokens."""
        examples = np.diff(self.offsets).tolist()
        tokens = [int(np.sum(store.lengths, dtype=np.int64)) for store in self.stores]
        epochs = [self.drawn[name] / count for name, count in zip(self.names, examples, strict=True)]
        total = sum(each * times for each, times in zip(tokens, epochs, strict=True))
        return [
            {"source": name, "examples": count, "tokens": each, "epochs": times, "share": each * times / total}
            for name, count, each, times in zip(self.names, examples, tokens, epochs, strict=True)
        ]

    def _chosen(self, number: int, seed: int, epoch: int) -> np.ndarray:
        name, start, size = self.names[number], self.offsets[number], len(self.stores[number])
        whole, rest = divmod(self.drawn[name], size)
        random = np.random.default_rng([seed, epoch, *name.encode()])  # by name, so that its choice doesn't depend on the other sources
        return start + np.concatenate([np.tile(np.arange(size), whole), random.permutation(size)[:rest]])
