"""Packing: arrays worked by hand, and what holds for any lengths."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import assign, best_fit, collate
from alpaca_jax.errors import UserError

CAPACITY = 32
# (length, prompt length) of examples that fit a row
shapes = st.integers(1, CAPACITY).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length - 1)))
batches = st.lists(shapes, min_size=1, max_size=40)


def make(shapes: list[tuple[int, int]]) -> list[Example]:
    """Examples whose ids are all different, so that each can be found again."""
    starts = np.cumsum([1, *(length for length, _ in shapes)])
    return [
        Example.answering(np.arange(start, start + length, dtype=np.int32), prompt)
        for start, (length, prompt) in zip(starts, shapes, strict=False)
    ]


def test_two_examples_in_one_row() -> None:
    batch = collate(
        [Example.answering(np.array([1, 7, 8, 2], np.int32), 2), Example.answering(np.array([1, 9, 2], np.int32), 1)], rows=2, length=8
    )
    assert {name: array[0].tolist() for name, array in batch.items()} == {
        "tokens": [1, 7, 8, 2, 1, 9, 2, 0],
        "targets": [7, 8, 2, 0, 9, 2, 0, 0],
        "segments": [1, 1, 1, 1, 2, 2, 2, 0],
        "positions": [0, 1, 2, 3, 0, 1, 2, 0],
        "weights": [0, 1, 1, 0, 1, 1, 0, 0],
    }
    assert {str(array.dtype) for name, array in batch.items() if name != "weights"} == {"int32"}
    assert batch["weights"].dtype == np.float32
    assert not any(array[1].any() for array in batch.values())


@given(st.lists(st.integers(1, CAPACITY), max_size=100))
def test_best_fit_loses_and_duplicates_nothing(lengths: list[int]) -> None:
    rows = best_fit(lengths, CAPACITY)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= CAPACITY for row in rows)
    # No two rows could be one: what best-fit-decreasing promises at the least.
    sums = sorted(sum(lengths[index] for index in row) for row in rows)
    assert len(sums) < 2 or sums[0] + sums[1] > CAPACITY


@given(st.lists(st.integers(1, CAPACITY), max_size=100), st.randoms())
def test_rows_in_any_order_of_placing_hold_what_they_can(lengths: list[int], random: random.Random) -> None:
    order = random.sample(range(len(lengths)), len(lengths))
    rows = assign(np.array(lengths, np.int64), CAPACITY, np.array(order, np.int64))
    assert rows.dtype == np.int32
    free: list[int] = []  # the same, by looking at every row
    for index in order:
        space, row = min([(space, row) for row, space in enumerate(free) if space >= lengths[index]], default=(CAPACITY, len(free)))
        free += [CAPACITY] * (row == len(free))
        assert free[rows[index]] == space  # the fullest row that takes it
        free[rows[index]] -= lengths[index]


@given(batches, st.booleans())
def test_every_token_and_target_is_in_the_batch_once(shapes: list[tuple[int, int]], packed: bool) -> None:
    examples = make(shapes)
    batch = collate(examples, rows=len(examples), length=CAPACITY, packed=packed)
    real = batch["segments"] > 0
    assert sorted(batch["tokens"][real]) == list(range(1, 1 + sum(length for length, _ in shapes)))
    assert not batch["tokens"][~real].any()
    learnt = [token for example in examples for token in example.ids[example.learnt]]
    assert sorted(batch["targets"][batch["weights"] > 0]) == learnt
    assert set(np.unique(batch["weights"])) <= {0, 1}


@given(batches)
def test_each_segment_is_one_example(shapes: list[tuple[int, int]]) -> None:
    examples = make(shapes)
    by_first = {int(example.ids[0]): example for example in examples}
    batch = collate(examples, rows=len(examples), length=CAPACITY)
    for row in range(len(examples)):
        for segment in range(1, int(batch["segments"][row].max()) + 1):
            (places,) = np.nonzero(batch["segments"][row] == segment)
            ids = batch["tokens"][row, places]
            assert ids.tolist() == by_first[int(ids[0])].ids.tolist()
            assert batch["positions"][row, places].tolist() == list(range(len(places)))
            assert batch["targets"][row, places[:-1]].tolist() == ids[1:].tolist()
            assert batch["weights"][row, places[-1]] == 0


def test_too_few_rows_say_how_many_are_needed() -> None:
    with pytest.raises(UserError, match=r"3 examples of 18 tokens need 3 rows of 8, not 2: give batch\.rows=3"):
        collate(make([(6, 1)] * 3), rows=2, length=8)


@pytest.mark.parametrize("packed", [True, False])
def test_an_example_longer_than_the_row_is_refused(packed: bool) -> None:
    with pytest.raises(UserError, match=r"an example of 9 tokens does not fit a row of 8 slots: give batch\.sequence_length=9"):
        collate(make([(9, 1)]), rows=2, length=8, packed=packed)
