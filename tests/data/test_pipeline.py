"""Batches: exactly so many examples a step, decided by (seed, index) alone, in rows that hold every step; the stream of them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Example, Examples
from alpaca_jax.data.pipeline import Batches, deal, heldout_batches
from alpaca_jax.errors import UserError

LENGTH = 64


def make(lengths: list[int]) -> Examples:
    """Examples that carry their number as every token, the first one excepted: it is the prompt."""
    return Examples.of(Example.answering(np.array([0] + [i + 1] * (length - 1), np.int32), 1) for i, length in enumerate(lengths))


def numbers(batch: dict[str, np.ndarray]) -> list[int]:
    """Which examples a batch holds."""
    return sorted(
        int(row_tokens[row_segments == segment][1])
        for row_tokens, row_segments in zip(batch["tokens"], batch["segments"], strict=True)
        for segment in range(1, row_segments.max() + 1)
    )


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.fixture
def some() -> Examples:
    return make(np.random.default_rng(0).integers(2, LENGTH + 1, 50).tolist())


lengths = st.lists(st.integers(2, LENGTH), min_size=1, max_size=60)


@settings(deadline=None)
@given(lengths, st.integers(1, 9), st.integers(0, 2**32), st.sampled_from(["packed", "none"]))
def test_an_epoch_holds_no_example_twice(lengths: list[int], examples: int, seed: int, packing: str) -> None:
    examples = min(examples, len(lengths))
    batches = Batches(make(lengths), BatchConfig(examples=examples, sequence_length=LENGTH, packing=packing), seed, epochs=2)
    assert batches.steps_per_epoch == len(lengths) // examples
    assert batches.left_out == len(lengths) % examples
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        seen = [numbers(batches.batch(index)) for index in steps]
        assert all(len(step) == examples for step in seen)
        assert len({number for step in seen for number in step}) == batches.steps_per_epoch * examples


@settings(deadline=None)
@given(lengths, st.integers(0, 2**32), st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_seed_and_index_alone_decide_a_batch(lengths: list[int], seed: int, asked: list[int]) -> None:
    config = BatchConfig(examples=min(4, len(lengths)), sequence_length=LENGTH, rows=4)
    one = Batches(make(lengths), config, seed, epochs=1)
    for index in asked:  # in any order, from any object
        assert equal(one.batch(index), Batches(make(lengths), config, seed, epochs=1).batch(index))


def test_another_seed_or_epoch_gives_other_batches(some: Examples) -> None:
    config = BatchConfig(examples=5, sequence_length=LENGTH)
    one, other = Batches(some, config, seed=0), Batches(some, config, seed=1)
    assert numbers(one.batch(0)) != numbers(other.batch(0))
    assert numbers(one.batch(0)) != numbers(one.batch(one.steps_per_epoch))


def test_the_examples_left_out_change_with_the_epoch(some: Examples) -> None:
    dealt = [deal(some.lengths, 7, 7, np.random.default_rng([0, epoch])) for epoch in range(20)]
    assert len({(set(range(50)) - set(order.ravel().tolist())).pop() for order in dealt}) > 10


def test_steps_are_close_in_tokens() -> None:
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(4.7, 0.6, 5000).astype(int), 10, 512)
    tokens = lengths[deal(lengths, 100, 50, random)].sum(1)
    assert tokens.max() - tokens.min() < 0.02 * tokens.mean()
    assert np.ptp(lengths[random.permutation(5000).reshape(100, 50)].sum(1)) > 0.3 * tokens.mean()


def test_rows_are_the_fewest_that_hold_every_step(some: Examples) -> None:
    config = BatchConfig(examples=8, sequence_length=LENGTH)
    batches = Batches(some, config, seed=3, epochs=3)
    used = [int((batches.batch(index)["segments"] > 0).any(1).sum()) for index in range(3 * batches.steps_per_epoch)]
    assert batches.rows == max(used)
    assert Batches(some, config, seed=3, epochs=3, multiple=4).rows == -(-batches.rows // 4) * 4
    fixed = Batches(some, BatchConfig(examples=8, sequence_length=LENGTH, rows=20), seed=3, epochs=3)
    assert fixed.batch(2)["tokens"].shape == (20, LENGTH)
    with pytest.raises(UserError, match=rf"batch\.rows=2 of 64 slots .* one needs {batches.rows}: give batch\.rows={batches.rows}"):
        Batches(some, BatchConfig(examples=8, sequence_length=LENGTH, rows=2), seed=3, epochs=3)
    with pytest.raises(UserError, match=r"batch\.rows=15 .* by 4 devices: give batch\.rows=16"):
        Batches(some, BatchConfig(examples=8, sequence_length=LENGTH, rows=15), seed=3, epochs=3, multiple=4)


def test_unpacked_every_example_has_a_row(some: Examples) -> None:
    batch = Batches(some, BatchConfig(examples=8, sequence_length=LENGTH, packing="none"), seed=0).batch(0)
    assert batch["tokens"].shape == (8, LENGTH)
    assert (batch["segments"].max(1) == 1).all()


def test_what_cannot_be_batched_is_said(some: Examples) -> None:
    with pytest.raises(UserError, match=r"batch\.examples=51, but there are only 50 examples: give batch\.examples=50"):
        Batches(some, BatchConfig(examples=51, sequence_length=LENGTH), seed=0)
    with pytest.raises(UserError, match=r"does not fit a row of 16 slots"):
        Batches(some, BatchConfig(examples=5, sequence_length=16), seed=0)


def test_the_stream_gives_the_batches_from_any_start(some: Examples) -> None:
    batches = Batches(some, BatchConfig(examples=8, sequence_length=LENGTH), seed=0, epochs=2)
    streamed = list(batches.stream(4, 9))  # over the border of the epochs, at 6
    assert len(streamed) == 5
    assert all(equal(batch, batches.batch(index)) for index, batch in enumerate(streamed, start=4))
    assert list(batches.stream(5, 5)) == []


def test_an_exception_in_a_thread_reaches_the_caller_as_itself(some: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(some, BatchConfig(examples=8, sequence_length=LENGTH), seed=0)
    whole = batches.batch

    def broken(index: int) -> dict[str, np.ndarray]:
        if index >= 3:
            raise UserError(f"batch {index} can't be read")
        return whole(index)

    monkeypatch.setattr(batches, "batch", broken)
    stream = batches.stream(0, 6)
    assert [numbers(next(stream)) for _ in range(3)] == [numbers(whole(index)) for index in range(3)]
    with pytest.raises(UserError, match="batch 3 can't be read"):
        next(stream)


def test_a_stream_left_early_ends_the_process_cleanly_and_says_nothing() -> None:
    script = """
import numpy as np
from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Example, Examples
from alpaca_jax.data.pipeline import Batches
examples = Examples.of(Example.answering(np.arange(9, dtype=np.int32), 1) for _ in range(64))
for index, batch in enumerate(Batches(examples, BatchConfig(examples=2, sequence_length=64), 0, epochs=9).stream(0, 200)):
    if index == 3:
        break
print("left")
"""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], env=own, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")


def test_heldout_batches_hold_every_example_once(some: Examples) -> None:
    batches = heldout_batches(some, rows=3, length=LENGTH)
    assert all(batch["tokens"].shape == (3, LENGTH) for batch in batches)
    assert sorted(number for batch in batches for number in numbers(batch)) == list(range(1, 51))
    assert sum(batch["weights"].sum() for batch in batches) == some.lengths.sum() - len(some)
