"""Packing: the examples of a step share rows, separated by segment ids. Needs numpy only."""

import bisect
from collections.abc import Sequence

import numpy as np

from alpaca_jax.data.example import Features, Item
from alpaca_jax.errors import UserError

Batch = dict[str, np.ndarray]


def check_fit(lengths: Sequence[int] | np.ndarray, capacity: int, parts: int = 1) -> None:
    """Raises a UserError if one of the lengths, each of so many examples that share a row, is more than `capacity` slots."""
    longest = int(np.max(lengths, initial=0))
    if longest > capacity:
        what = "an example" if parts == 1 else f"{parts} examples that belong together, such as the sides of a pair,"
        raise UserError(
            f"{what} of {longest} tokens {'does' if parts == 1 else 'do'} not fit a row of {capacity} slots: "
            f"give batch.sequence_length={longest} or a data.max_length of at most {capacity // parts}"
        )


def assign(lengths: np.ndarray, capacity: int, order: np.ndarray | None = None) -> np.ndarray:
    """Returns the row of each example, int32 [N], numbered from 0 without gaps: best fit, each into the fullest row with enough room.

    `order`: the order in which they are placed; None: longest first. A million examples take half a second.
    """
    check_fit(lengths, capacity)
    if order is None:
        order = np.argsort(-lengths, kind="stable")
    spaces: list[int] = []  # the distinct numbers of free slots in the rows, sorted
    by_space: dict[int, list[int]] = {}
    rows, count = [], 0
    for length in lengths[order].tolist():
        place = bisect.bisect_left(spaces, length)
        if place < len(spaces):
            space = spaces[place]
            row = by_space[space].pop()
            if not by_space[space]:
                del by_space[space], spaces[place]
        else:
            space, row, count = capacity, count, count + 1
        rows.append(row)
        space -= length
        if space not in by_space:
            by_space[space] = []
            bisect.insort(spaces, space)
        by_space[space].append(row)
    assigned = np.empty(len(lengths), np.int32)
    assigned[order] = rows
    return assigned


def best_fit(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Returns rows of indices whose lengths sum to at most `capacity`: longest first, each into the fullest row with enough room."""
    lengths = np.asarray(lengths, np.int64)
    rows = assign(lengths, capacity)
    order = np.lexsort((-lengths, rows))
    borders = np.flatnonzero(np.diff(rows[order])) + 1
    return [row.tolist() for row in np.split(order, borders) if len(row)]


def collate(examples: Sequence[Item], rows: int, length: int, *, packed: bool = True, slots: int | None = None) -> Batch:
    """Returns the batch of exactly the given items, each in a row of its own unless `packed`. All arrays are [rows, length].

    `tokens`, `targets` int32: targets[t] is tokens[t + 1] of the same example. `weights` float32: 1 where the target is learnt (a response
    token or EOS), else 0. `segments` int32: 0 in empty slots, else 1, 2, ... along the row. `positions` int32: from 0 in each segment.
    For `slots`, and what else a batch may have, see `lay`.
    """
    lengths = [len(example.ids) for example in examples]
    check_fit(lengths, length)
    places = best_fit(lengths, length) if packed else [[index] for index in range(len(examples))]
    if len(places) > rows:
        raise UserError(
            f"{len(examples)} examples of {sum(lengths)} tokens need {len(places)} rows of {length}, not {rows}: "
            f"give batch.rows={len(places)} or null, longer rows, or fewer batch.examples"
        )
    return lay([[examples[index] for index in place] for place in places], rows, length, slots, Features.of(examples))


def lay(places: Sequence[Sequence[Item]], rows: int, length: int, slots: int | None = None, features: Features | None = None) -> Batch:
    """Returns the batch, as `collate` describes it, whose first rows hold the given items; the parts of a group are segments in a line.

    Each array of the examples' `tokens` becomes [rows, length, ...] of its own kind, its values at the places of their tokens. Each of the
    `facts` becomes float32 [rows, slots], where slot s is that of segment s + 1. Both are zero where there is nothing.
    `slots`: the most segments of a row; None: as many as some row has. `features`: those of all batches, which may have more than these
    items (a host's rows may be empty); None: those of the items.
    """
    features = features or Features.of([item for place in places for item in place])
    segmented = [[part for item in place for part in item.parts] for place in places]
    most = max((len(parts) for parts in segmented), default=0)
    slots = most if slots is None else slots
    integers = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "targets", "segments", "positions")}
    weights = np.zeros((rows, length), np.float32)
    facts = {name: np.zeros((rows, slots), np.float32) for name in features.facts}
    tokens = {name: np.zeros((rows, length, *shape), dtype) for name, (dtype, shape) in features.tokens.items()}
    assert not facts or most <= slots, f"a row of {most} segments, and {slots} slots"
    for row, parts in enumerate(segmented):
        start = 0
        for segment, example in enumerate(parts, start=1):
            stop = start + len(example.ids)
            integers["tokens"][row, start:stop] = example.ids
            integers["targets"][row, start : stop - 1] = example.ids[1:]
            integers["segments"][row, start:stop] = segment
            integers["positions"][row, start:stop] = np.arange(stop - start)
            # The token at t predicts t + 1; the last one predicts nothing.
            weights[row, start : stop - 1] = example.learnt[1:]
            for name, array in example.tokens.items():
                tokens[name][row, start:stop] = array
            for name, fact in example.facts.items():
                facts[name][row, segment - 1] = fact
            start = stop
    return {**integers, "weights": weights, **tokens, **facts}
