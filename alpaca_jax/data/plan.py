"""Plans: which examples each step of an epoch takes, and in which of its rows. Only lengths matter; needs numpy only."""

import dataclasses
import functools

import numpy as np

from alpaca_jax.data.pack import assign

SMALLEST_BUCKET = 64
JITTER = 1.05  # lengths that differ by less count as equal


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of one epoch, end to end: `examples` int64 [taken], the `rows` int32 [taken] they are in, `starts` int64 [steps + 1]."""

    examples: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    left_out: int  # examples of the epoch that no step takes

    @property
    def steps(self) -> int:
        """Steps of the epoch."""
        return len(self.starts) - 1

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the examples of a step, int64 [n], and the row of each, int32 [n]."""
        place = slice(self.starts[step], self.starts[step + 1])
        return self.examples[place], self.rows[place]

    @functools.cached_property
    def rows_needed(self) -> int:
        """Rows of the step that needs most."""
        return int(self.rows.max()) + 1

    def tokens(self, lengths: np.ndarray) -> np.ndarray:
        """Returns the tokens of each step, int64 [steps]."""
        return np.add.reduceat(lengths[self.examples], self.starts[:-1], dtype=np.int64)

    def longest(self, lengths: np.ndarray) -> np.ndarray:
        """Returns the tokens of each step's longest example, int [steps]."""
        return np.maximum.reduceat(lengths[self.examples], self.starts[:-1])


def by_examples(chosen: np.ndarray, lengths: np.ndarray, examples: int, capacity: int | None, random: np.random.Generator) -> Plan:
    """Returns the plan of steps of exactly `examples` of the chosen examples each, as `deal` distributes them.

    Each step packs its own rows of `capacity` slots; None: every example has a row of its own.
    """
    steps = len(chosen) // examples
    dealt = chosen[deal(lengths[chosen], steps, examples, random)]
    if capacity is None:
        rows = np.tile(np.arange(examples, dtype=np.int32), steps)
    else:
        rows = np.concatenate([assign(lengths[step], capacity) for step in dealt])
    starts = np.arange(steps + 1, dtype=np.int64) * examples
    return Plan(dealt.ravel(), rows, starts, len(chosen) - steps * examples)


def by_rows(
    chosen: np.ndarray, lengths: np.ndarray, rows: int, capacity: int, random: np.random.Generator, steps: int | None = None
) -> Plan:
    """Returns the plan of steps of `rows` full rows each: best fit over the whole epoch, then the rows are shuffled over the steps.

    `steps`: how many there must be (None: as many as the rows fill). Surplus rows are left out at random. If rows are lacking, usually one
    or two from epoch to epoch, random examples move into rows of their own.
    """
    assigned = assign(lengths[chosen], capacity, _longest_first(lengths[chosen], random))
    count = int(assigned.max(initial=-1)) + 1
    steps = count // rows if steps is None else steps
    wanted = steps * rows
    if count < wanted:
        _, first = np.unique(assigned, return_index=True)
        movable = np.setdiff1d(np.arange(len(chosen)), first)
        assigned[random.permutation(movable)[: wanted - count]] = np.arange(count, wanted)
        count = wanted
    assigned = random.permutation(count)[assigned]
    order = np.argsort(assigned, kind="stable")
    order = order[: np.searchsorted(assigned[order], wanted)]
    row = assigned[order]
    starts = np.searchsorted(row, np.arange(steps + 1) * rows)
    return Plan(chosen[order], (row % rows).astype(np.int32), starts, len(chosen) - len(order))


def deal(lengths: np.ndarray, steps: int, examples: int, random: np.random.Generator) -> np.ndarray:
    """Returns int [steps, examples]: which of the N examples each step takes, none twice, all steps with nearly the same token count.

    `N - steps * examples` random ones are left out. The others are sorted by length, give or take 5%, and dealt in rounds of `steps`: the
    longest of a round goes to the step with the fewest tokens so far. So only examples of similar length change places, and the rows
    that hold the mean step hold every step (all of Alpaca, 128 a step: 99% full); with random steps a fifth of the slots stays empty.
    """
    chosen = random.permutation(len(lengths))[: steps * examples]
    order = chosen[_longest_first(lengths[chosen], random)]
    dealt = np.zeros((steps, examples), np.int64)
    tokens = np.zeros(steps, np.int64)
    for turn, hand in enumerate(order.reshape(examples, steps)):
        hand = hand[np.argsort(-lengths[hand], kind="stable")]
        poorest = np.lexsort((random.permutation(steps), tokens))
        dealt[poorest, turn] = hand
        tokens[poorest] += lengths[hand]
    return dealt[random.permutation(steps)]


def buckets(configured: tuple[int, ...] | None, capacity: int) -> np.ndarray:
    """Returns the row lengths that unpacked steps may have, int64, ascending; the last one is `capacity`."""
    if configured is None:
        powers = SMALLEST_BUCKET << np.arange(capacity.bit_length())
        configured = tuple(powers[powers < capacity].tolist())
    return np.unique(np.array([*configured, capacity], np.int64))


def _longest_first(lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.argsort(-lengths * random.uniform(1, JITTER, len(lengths)), kind="stable")
