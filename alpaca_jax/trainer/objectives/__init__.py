"""What a step minimizes: a function of (trained weights, fixed weights, batch). One file per objective.

A step sums the terms over its microbatches and divides once by the global weight, so an objective returns sums, never means. Whatever it
needs beside the trained weights (frozen weights, a base model, a reference, a teacher) is in `fixed`, which no step changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax

from alpaca_jax.model.tree import Tree
from alpaca_jax.trainer.forward import Batch, Forward
from alpaca_jax.trainer.weights import Fixed

Sum = tuple[jax.Array, jax.Array]  # a sum and the weight it is divided by, fp32 scalars


Dim = Literal["rows", "length", "slots"] | int  # slots: the most segments that a row of the run may have
KEY = "key"  # what a batch has beside its arrays where an objective is random


class Read(NamedTuple):
    """An array of a batch: its dtype and its dimensions, the rows first."""

    dtype: str
    dims: tuple[Dim, ...] = ("rows", "length")

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in batches of these `sizes` of rows, length and slots."""
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in self.dims)

    @property
    def axes(self) -> tuple[str, ...]:
        """The logical axes of the dimensions (see `sharding`)."""
        return tuple({"rows": "batch", "length": "sequence"}.get(str(dim), "unsharded") for dim in self.dims)


class Terms(NamedTuple):
    """The summed loss, the weight it is divided by, and further sums to report by name; all fp32 scalars."""

    total: jax.Array
    weight: jax.Array
    extra: Mapping[str, Sum] = {}


@dataclass(frozen=True)
class Objective:
    """A loss, the arrays of a batch that it reads, and the names of what it reports.

    `weight` names the global denominator in the metrics: target tokens, pairs, ...; `reports` names the entries of `Terms.extra`. The
    batch of a `random` one has a PRNG key, another one in each step and microbatch.
    """

    terms: Callable[[Tree, Fixed, Batch], Terms]
    reads: Mapping[str, Read]  # by their keys in the batch
    weight: str = "targets"
    reports: tuple[str, ...] = field(default=())
    random: bool = False

    def select(self, batch: Batch) -> dict[str, Any]:
        """The arrays of `batch` that this objective reads."""
        missing = self.reads.keys() - batch.keys()
        assert not missing, f"the objective reads {sorted(missing)}; the batch has {sorted(batch)}"
        return {key: batch[key] for key in self.reads}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the figures that a step reports for it."""
        return ("loss", self.weight, *self.reports)


Factory = Callable[[Forward], Objective]  # makes an objective of one model
