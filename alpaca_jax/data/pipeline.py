"""Batches: a pure function of (seed, batch index), and tf.data that makes them ahead of the step."""

import os
from collections.abc import Iterator

import numpy as np

from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.pack import Batch, best_fit, check_fit, collate, lay
from alpaca_jax.errors import UserError

# Making a batch takes a millisecond or two: two threads, a few batches ahead, keep any step fed.
THREADS = 2
AHEAD = 4
# TensorFlow reports on its arithmetic, of which there is none here, unless this is set before its import.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}


def deal(lengths: np.ndarray, steps: int, examples: int, random: np.random.Generator) -> np.ndarray:
    """Returns int [steps, examples]: which of the N examples each step takes, none twice, all steps close in tokens.

    Which `N - steps * examples` are left out is random. The others are ordered by length, give or take 5%, and dealt in rounds of
    `steps`: the longest of a round goes to the step with the fewest tokens so far. So chance decides among examples of like length
    only, and the rows that hold the mean step hold every step (all of Alpaca, 128 a step: 99% full); random steps leave a fifth empty.
    """
    chosen = random.permutation(len(lengths))[: steps * examples]
    order = chosen[np.argsort(-lengths[chosen] * random.uniform(1, 1.05, len(chosen)), kind="stable")]
    dealt = np.zeros((steps, examples), np.int64)
    tokens = np.zeros(steps, np.int64)
    for turn, hand in enumerate(order.reshape(examples, steps)):
        hand = hand[np.argsort(-lengths[hand], kind="stable")]
        poorest = np.lexsort((random.permutation(steps), tokens))
        dealt[poorest, turn] = hand
        tokens[poorest] += lengths[hand]
    return dealt[random.permutation(steps)]


class Batches:
    """The batches of a run: exactly `config.examples` examples a step, in rows whose number is fixed for the run."""

    def __init__(self, examples: ExampleStore, config: BatchConfig, seed: int, epochs: int = 1, multiple: int = 1) -> None:
        """`epochs`: how many, at least in part, the run needs. `multiple`: what `rows` must divide by, the devices that share a batch."""
        if len(examples) < config.examples:
            raise UserError(
                f"batch.examples={config.examples}, but there are only {len(examples)} examples: "
                f"give batch.examples={len(examples)} or fewer, or more records"
            )
        self.examples, self.config, self.seed = examples, config, seed
        self.lengths = examples.lengths
        check_fit(self.lengths, config.sequence_length)
        self.steps_per_epoch = len(examples) // config.examples
        self.left_out = len(examples) - self.steps_per_epoch * config.examples  # of each epoch; the seed picks them anew
        self._plan: tuple[int, np.ndarray] | None = None
        self.rows = self._rows(max(epochs, 1), multiple)

    def indices(self, index: int) -> np.ndarray:
        """Returns which examples batch `index` holds, int [config.examples]."""
        epoch, step = divmod(index, self.steps_per_epoch)
        plan = self._plan  # one assignment reads and writes it, since several threads ask
        if plan is None or plan[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            plan = self._plan = (epoch, deal(self.lengths, self.steps_per_epoch, self.config.examples, random))
        return plan[1][step]

    def batch(self, index: int) -> Batch:
        """Returns batch `index` (from 0, through all epochs): arrays [rows, sequence_length] as in `pack.collate`."""
        examples = self.examples.take(self.indices(index).tolist())
        return collate(examples, self.rows, self.config.sequence_length, packed=self.config.packing == "packed")

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """Yields the batches `start` to `stop - 1`, made ahead by tf.data; an exception in one of its threads is raised here as itself."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
        failed: dict[int, Exception] = {}

        def make(index: np.ndarray) -> list[np.ndarray]:
            try:
                return list(self.batch(int(index)).values())
            except Exception as error:  # TensorFlow would hand on its text only
                failed[int(index)] = error
                raise

        names, kinds = zip(*((name, array.dtype) for name, array in self.batch(start).items()), strict=True)
        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = THREADS
        options.threading.max_intra_op_parallelism = 1
        batches = (
            tf.data.Dataset.range(start, stop)
            .map(lambda index: tf.numpy_function(make, [index], kinds, stateful=False), num_parallel_calls=THREADS)
            .prefetch(AHEAD)
            .with_options(options)
        )
        index = start
        try:
            for arrays in batches.as_numpy_iterator():
                yield dict(zip(names, arrays, strict=True))
                index += 1
        except tf.errors.OpError:
            if index in failed:
                raise failed[index] from None
            raise

    def _rows(self, epochs: int, multiple: int) -> int:
        """The rows that hold every step of all epochs; a UserError where the configured ones don't."""
        needed = max(self._needed(index) for index in range(epochs * self.steps_per_epoch))
        least = _multiple_above(needed, multiple)
        rows, length = self.config.rows, self.config.sequence_length
        if rows is None:
            return least
        if rows < needed:
            raise UserError(
                f"batch.rows={rows} of {length} slots don't hold every step of {self.config.examples} examples, one needs {needed}: "
                f"give batch.rows={least} or null, a larger batch.sequence_length, or fewer batch.examples"
            )
        if rows % multiple:
            raise UserError(
                f"batch.rows={rows} can't be shared evenly by {multiple} devices: give batch.rows={_multiple_above(rows, multiple)} or null"
            )
        return rows

    def _needed(self, index: int) -> int:
        if self.config.packing == "none":
            return self.config.examples
        return len(best_fit(self.lengths[self.indices(index)], self.config.sequence_length))


def _multiple_above(number: int, of: int) -> int:
    return -(-number // of) * of


def heldout_batches(examples: ExampleStore, rows: int, length: int) -> list[Batch]:
    """Returns batches [rows, length] that hold every example once, in packed rows as full as they go."""
    places = best_fit(examples.lengths, length)
    groups = [places[start : start + rows] for start in range(0, len(places), rows)]
    return [lay([examples.take(place) for place in group], rows, length) for group in groups]
