"""Plans: each example in one step at the most, steps of exactly so many examples or full rows, the same number in every epoch."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.data.plan import Plan, buckets, by_examples, by_rows, deal

CAPACITY = 32
lengths = st.lists(st.integers(1, CAPACITY), min_size=1, max_size=80).map(lambda lengths: np.array(lengths, np.int32))


def alpaca_like(count: int) -> np.ndarray:
    return np.clip(np.random.default_rng(0).lognormal(4.7, 0.6, count).astype(int), 10, 512)


def row_tokens(plan: Plan, lengths: np.ndarray, rows: int) -> np.ndarray:
    """Tokens of each row, [steps, rows]."""
    filled = np.zeros((plan.steps, rows), np.int64)
    for step in range(plan.steps):
        examples, places = plan.step(step)
        np.add.at(filled[step], places, lengths[examples])
    return filled


def test_three_examples_in_rows_of_eight() -> None:
    plan = by_examples(np.arange(3), np.array([6, 2, 8]), 3, 8, np.random.default_rng(0))
    together = {row: set(plan.examples[plan.rows == row].tolist()) for row in (0, 1)}
    assert sorted(together.values(), key=len) == [{2}, {0, 1}]
    assert (plan.steps, plan.rows_needed, plan.left_out) == (1, 2, 0)
    assert (plan.tokens(np.array([6, 2, 8])).tolist(), plan.longest(np.array([6, 2, 8])).tolist()) == ([16], [8])


@settings(deadline=None)
@given(lengths, st.integers(1, 5), st.integers(0, 2**32))
def test_full_rows_hold_every_example_once_or_leave_it_out(lengths: np.ndarray, rows: int, seed: int) -> None:
    plan = by_rows(np.arange(len(lengths)), lengths, rows, CAPACITY, np.random.default_rng(seed))
    assert len(set(plan.examples.tolist())) == len(plan.examples) == len(lengths) - plan.left_out
    filled = row_tokens(plan, lengths, rows)
    assert filled.max(initial=1) <= CAPACITY
    assert filled.min(initial=1) > 0  # a step has no empty row
    assert plan.tokens(lengths).tolist() == filled.sum(1).tolist() if plan.steps else plan.left_out == len(lengths)


@settings(deadline=None)
@given(lengths, st.integers(1, 5), st.integers(0, 2**32), st.data())
def test_an_epoch_has_the_steps_it_is_told(lengths: np.ndarray, rows: int, seed: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(0, len(lengths) // rows), "steps")  # more than the rows give, or fewer
    plan = by_rows(np.arange(len(lengths)), lengths, rows, CAPACITY, np.random.default_rng(seed), steps)
    filled = row_tokens(plan, lengths, rows)
    assert plan.steps == steps
    assert filled.max(initial=1) <= CAPACITY and filled.min(initial=1) > 0
    assert len(set(plan.examples.tolist())) == len(plan.examples) == len(lengths) - plan.left_out


def test_an_example_chosen_twice_is_there_twice() -> None:
    lengths = np.array([5, 9, 4])
    for plan in (
        by_rows(np.array([1, 1, 2]), lengths, 1, CAPACITY, np.random.default_rng(0)),
        by_examples(np.array([1, 1, 2]), lengths, 3, CAPACITY, np.random.default_rng(0)),
    ):
        assert sorted(plan.examples.tolist()) == [1, 1, 2]


def test_rows_packed_over_an_epoch_are_full_in_every_step() -> None:
    lengths = alpaca_like(5000)
    plan = by_rows(np.arange(5000), lengths, 8, 2048, np.random.default_rng(0))
    assert plan.tokens(lengths).sum() > 0.995 * plan.steps * 8 * 2048
    assert plan.left_out < 8 * 2048 // 10
    assert not np.array_equal(plan.examples, by_rows(np.arange(5000), lengths, 8, 2048, np.random.default_rng(1)).examples)


def test_the_rows_left_out_change_with_the_epoch() -> None:
    lengths = alpaca_like(500)
    left = [
        set(range(500)) - set(by_rows(np.arange(500), lengths, 5, 2048, np.random.default_rng([0, e])).examples.tolist()) for e in range(20)
    ]
    assert len(set.union(*left)) > 3 * max(map(len, left))


def test_the_examples_left_out_change_with_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(2, 65, 50)
    dealt = [deal(lengths, 7, 7, np.random.default_rng([0, epoch])) for epoch in range(20)]
    assert len({(set(range(50)) - set(order.ravel().tolist())).pop() for order in dealt}) > 10


def test_steps_are_close_in_tokens() -> None:
    lengths, random = alpaca_like(5000), np.random.default_rng(1)
    tokens = lengths[deal(lengths, 100, 50, random)].sum(1)
    assert tokens.max() - tokens.min() < 0.02 * tokens.mean()
    assert np.ptp(lengths[random.permutation(5000).reshape(100, 50)].sum(1)) > 0.3 * tokens.mean()


def test_buckets_end_with_the_whole_row() -> None:
    assert buckets(None, 512).tolist() == [64, 128, 256, 512]
    assert buckets(None, 500).tolist() == [64, 128, 256, 500]
    assert buckets(None, 48).tolist() == [48]
    assert buckets((300, 100), 512).tolist() == [100, 300, 512]
