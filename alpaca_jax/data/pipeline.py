"""Batches: each is a pure function of (seed, batch index), made from the plan of its epoch."""

import functools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from alpaca_jax.data import prefetch
from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import ExampleStore, Item
from alpaca_jax.data.mixture import Mixture
from alpaca_jax.data.pack import Batch, best_fit, check_fit, lay
from alpaca_jax.data.plan import Plan, buckets, by_examples, by_rows
from alpaca_jax.errors import UserError

PLANS_KEPT = 2  # at the border of two epochs, the prefetching threads need both


def make_batches(
    examples: ExampleStore | Mixture, config: BatchConfig, seed: int, epochs: float = 1, multiple: int = 1, steps: int | None = None
) -> "Batches":
    """Returns the batches of a run of `epochs` epochs or, if given, of `steps` steps; a UserError where the examples don't allow it.

    `multiple`: the number of devices that share a batch, by which its rows must be divisible.
    """
    if config.tokens is None:
        return ByExamples(examples, config, seed, multiple, epochs, steps)
    return ByTokens(examples, config, seed, multiple)


class Batches(ABC):
    """The batches of a run, epoch after epoch: each epoch has `steps_per_epoch` of them, each batch has `rows` rows."""

    rows: int
    steps_per_epoch: int
    left_out: int  # examples of the first epoch that no step takes; the seed picks others in each epoch

    def __init__(self, examples: ExampleStore | Mixture, config: BatchConfig, seed: int, multiple: int) -> None:
        self.examples, self.config, self.seed, self._multiple = examples, config, seed, multiple
        self.lengths = np.asarray(examples.lengths)
        self.epoch_size = examples.epoch_size if isinstance(examples, Mixture) else len(examples)  # examples of an epoch
        if not self.epoch_size:
            raise UserError("there are no examples to train on: give data.records that hold some")
        check_fit(self.lengths, config.sequence_length, examples.features.parts)
        self.read_from(examples)
        self._plans: dict[int, Plan] = {}
        self._lock = threading.Lock()

    def read_from(self, examples: ExampleStore) -> None:
        """Makes the batches of `examples` from now on: the same items by the same numbers, which may have further facts or tokens."""
        assert np.array_equal(examples.lengths, self.lengths)
        self._read, self.features = examples, examples.features

    @functools.cached_property
    def slots(self) -> int:
        """The most segments that a row of any batch can have, whatever the seed and epoch: the slots of a fact."""
        if self.config.packing == "none":
            return self.features.parts
        repeated = self.examples.repeated() if isinstance(self.examples, Mixture) else self.lengths
        most = int(np.searchsorted(np.cumsum(np.sort(repeated)), self.config.sequence_length, side="right"))
        return self.features.parts * min(most, self.config.examples or most)

    @abstractmethod
    def _make_plan(self, epoch: int) -> Plan: ...

    @abstractmethod
    def _row_lengths(self, longest: np.ndarray) -> np.ndarray:
        """The slots of a row in steps whose longest examples have these lengths."""

    def plan(self, epoch: int) -> Plan:
        """Returns which examples each step of an epoch takes, and in which of its rows: a function of (seed, epoch)."""
        return self._planned(epoch)

    def indices(self, index: int) -> np.ndarray:
        """Returns which examples batch `index` holds, int64 [n]."""
        return self._step(index)[0]

    def row_length(self, index: int) -> int:
        """Returns the slots of a row of batch `index`: `sequence_length`, or the bucket that holds the step's longest example."""
        return int(self._row_lengths(self.lengths[self.indices(index)].max()))

    def fill(self, index: int) -> float:
        """Returns the share of the slots of batch `index` that hold real tokens."""
        return float(self.lengths[self.indices(index)].sum() / (self.rows * self.row_length(index)))

    def batch(self, index: int, rows: slice | None = None) -> Batch:
        """Returns batch `index` (from 0, through all epochs): arrays [rows, row length] as in `pack.collate`, [rows, slots] of facts.

        `rows`: only these of its rows, for a host that holds no others; only their examples are read.
        """
        wanted = range(self.rows)[rows or slice(None)]
        indices, places = self._step(index)
        ours = np.isin(places, np.array(wanted, np.int32))
        by_row: dict[int, list[Item]] = {row: [] for row in wanted}
        for place, item in zip(places[ours].tolist(), self._read.take(indices[ours].tolist()), strict=True):
            by_row[place].append(item)
        return lay(list(by_row.values()), len(wanted), self.row_length(index), self.slots, self.features)

    def stream(self, start: int, stop: int, rows: slice | None = None) -> Iterator[Batch]:
        """Yields the batches `start` to `stop - 1`, only these `rows` of each, prefetched by tf.data (without TensorFlow: by threads)."""
        kinds = {name: array.dtype for name, array in lay([], 0, 0, self.slots, self.features).items()}
        return prefetch.ahead(functools.partial(self.batch, rows=rows), start, stop, kinds)

    def statistics(self, epoch: int) -> dict[str, int | float]:
        """Returns an epoch's steps and examples, taken and left out; and for a step the slots, real tokens and share of slots in use."""
        plan = self.plan(epoch)
        tokens = plan.tokens(self.lengths)
        slots = self.rows * self._row_lengths(plan.longest(self.lengths))
        return {
            "steps": plan.steps,
            "examples": len(plan.examples),
            "left_out": plan.left_out,
            "slots": float(slots.mean()),
            "tokens_min": int(tokens.min()),
            "tokens_mean": float(tokens.mean()),
            "tokens_max": int(tokens.max()),
            "utilisation_min": float((tokens / slots).min()),
            "utilisation_mean": float(tokens.sum() / slots.sum()),
        }

    def _planned(self, epoch: int) -> Plan:
        with self._lock:  # several threads need it, one plans
            if epoch not in self._plans:
                plan = self._make_plan(epoch)
                while len(self._plans) >= PLANS_KEPT:
                    del self._plans[next(iter(self._plans))]
                self._plans[epoch] = plan
            return self._plans[epoch]

    def _step(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, step = divmod(index, self.steps_per_epoch)
        return self.plan(epoch).step(step)

    def _chosen(self, epoch: int) -> np.ndarray:
        return self.examples.chosen(self.seed, epoch) if isinstance(self.examples, Mixture) else np.arange(self.epoch_size)

    def _random(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch])


class ByExamples(Batches):
    """Exactly `config.examples` examples a step, floor(N / examples) steps an epoch, in the fewest rows that hold every step."""

    def __init__(
        self, examples: ExampleStore | Mixture, config: BatchConfig, seed: int, multiple: int, epochs: float, steps: int | None
    ) -> None:
        super().__init__(examples, config, seed, multiple)
        assert config.examples is not None
        if self.epoch_size < config.examples:
            raise UserError(
                f"batch.examples={config.examples}, but there are only {self.epoch_size} examples: "
                f"give batch.examples={self.epoch_size} or fewer, or more records"
            )
        self._taken, self._packed = config.examples, config.packing == "packed"
        self._buckets = buckets(config.buckets, config.sequence_length)
        self.steps_per_epoch, self.left_out = divmod(self.epoch_size, config.examples)
        needed = epochs if steps is None else steps / self.steps_per_epoch
        self.rows = self._rows(max(1, math.ceil(needed)))

    def plan(self, epoch: int) -> Plan:
        """Returns the plan of an epoch; a UserError where it needs more rows than are configured."""
        plan = self._planned(epoch)
        if plan.rows_needed > self.rows:
            raise UserError(self._too_few(self.rows, plan.rows_needed))
        return plan

    def _make_plan(self, epoch: int) -> Plan:
        capacity = self.config.sequence_length if self._packed else None
        return by_examples(self._chosen(epoch), self.lengths, self._taken, capacity, self._random(epoch))

    def _row_lengths(self, longest: np.ndarray) -> np.ndarray:
        if self._packed:
            return np.full_like(longest, self.config.sequence_length)
        return self._buckets[np.searchsorted(self._buckets, longest)]

    def _rows(self, epochs: int) -> int:
        """The rows that hold every step of all epochs; a UserError where the configured ones can't hold those of the first epoch."""
        rows = self.config.rows
        needed = self._needed(epochs if rows is None else 1)
        if rows is None:
            return _multiple_above(needed, self._multiple)
        if rows < needed:
            raise UserError(self._too_few(rows, self._needed(epochs)))
        if rows % self._multiple:
            raise UserError(
                f"batch.rows={rows} can't be shared evenly by {self._multiple} devices: "
                f"give batch.rows={_multiple_above(rows, self._multiple)} or null"
            )
        return rows

    def _needed(self, epochs: int) -> int:
        if not self._packed:
            return self._taken
        return max(
            self._planned(epoch).rows_needed for epoch in reversed(range(epochs))
        )  # reversed, so that the plan of the first stays cached

    def _too_few(self, rows: int, needed: int) -> str:
        least, length = _multiple_above(needed, self._multiple), self.config.sequence_length
        if not self._packed:
            return f"batch.rows={rows}, but {self._taken} examples, one a row, need {needed}: give batch.rows={least} or null, or pack them"
        return (
            f"batch.rows={rows} of {length} slots don't hold every step of {self._taken} examples, one needs {needed}: give "
            f"batch.rows={least} or null, a larger batch.sequence_length, or fewer batch.examples"
        )


class ByTokens(Batches):
    """Packed rows of `config.tokens` slots in all; the first epoch decides how many steps every epoch has (see `plan.by_rows`)."""

    def __init__(self, examples: ExampleStore | Mixture, config: BatchConfig, seed: int, multiple: int) -> None:
        super().__init__(examples, config, seed, multiple)
        assert config.tokens is not None
        length = config.sequence_length
        self.rows = config.tokens // length
        if self.rows % multiple:
            raise UserError(
                f"batch.tokens={config.tokens} are {self.rows} rows of {length} slots, which {multiple} devices can't share evenly: "
                f"give batch.tokens={_multiple_above(self.rows, multiple) * length}"
            )
        first = self._by_rows(0, self.rows, None)
        if not first.steps:
            filled = self._by_rows(0, 1, None).steps // multiple * multiple
            remedy = f"give batch.tokens={filled * length} or fewer, or more records" if filled else "give more records"
            raise UserError(f"batch.tokens={config.tokens} are {self.rows} rows, but all examples together don't fill one step: {remedy}")
        self.steps_per_epoch, self.left_out, self._plans[0] = first.steps, first.left_out, first

    def _make_plan(self, epoch: int) -> Plan:
        return self._by_rows(epoch, self.rows, self.steps_per_epoch)

    def _by_rows(self, epoch: int, rows: int, steps: int | None) -> Plan:
        return by_rows(self._chosen(epoch), self.lengths, rows, self.config.sequence_length, self._random(epoch), steps)

    def _row_lengths(self, longest: np.ndarray) -> np.ndarray:
        return np.full_like(longest, self.config.sequence_length)


def _multiple_above(number: int, of: int) -> int:
    return -(-number // of) * of


def heldout_batches(examples: ExampleStore, rows: int, length: int) -> list[Batch]:
    """Returns batches [rows, length] that hold every item once, packed as densely as possible."""
    places = best_fit(examples.lengths, length)
    slots = examples.features.parts * max(map(len, places), default=0)
    groups = [places[start : start + rows] for start in range(0, len(places), rows)]
    return [lay([examples.take(place) for place in group], rows, length, slots, examples.features) for group in groups]
