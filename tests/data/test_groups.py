"""Groups: examples that belong together lie in one row, side by side, with their facts and what goes with their tokens."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import equal, make

from alpaca_jax.data import store
from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Annotated, Example, Examples, Features, Group, Grouped
from alpaca_jax.data.mixture import Concatenated, Mixture
from alpaca_jax.data.pack import collate, lay
from alpaca_jax.data.pipeline import heldout_batches, make_batches
from alpaca_jax.errors import UserError

LENGTH = 64
lengths = st.lists(st.tuples(st.integers(2, LENGTH // 2), st.integers(2, LENGTH // 2)), min_size=1, max_size=30)


def pairs(lengths: list[tuple[int, int]]) -> Grouped:
    """Pairs whose examples have their number as every id, and facts by which they are known."""
    flat = make([length for pair in lengths for length in pair])
    return Grouped(dataclasses.replace(flat, facts={"real": np.ones(len(flat), np.float32)}), 2)


def test_a_pair_worked_by_hand() -> None:
    scores = np.array([0.5, 0.25, 0.125], np.float16)
    chosen = Example.answering(np.array([1, 7, 2], np.int32), 1)
    rejected = Example.answering(np.array([1, 8], np.int32), 1)
    chosen = dataclasses.replace(chosen, tokens={"scores": scores}, facts={"reference": -1.5, "real": 1})
    rejected = dataclasses.replace(rejected, tokens={"scores": scores[:2]}, facts={"reference": -2.5, "real": 1})
    alone = Example.answering(np.array([3, 4], np.int32), 1)
    batch = lay([[alone, Group((chosen, rejected))]], 2, 8, slots=4)
    assert {name: array[0].tolist() for name, array in batch.items()} == {
        "tokens": [3, 4, 1, 7, 2, 1, 8, 0],
        "targets": [4, 0, 7, 2, 0, 8, 0, 0],
        "segments": [1, 1, 2, 2, 2, 3, 3, 0],
        "positions": [0, 1, 0, 1, 2, 0, 1, 0],
        "weights": [1, 0, 1, 1, 0, 1, 0, 0],
        "scores": [0, 0, 0.5, 0.25, 0.125, 0.5, 0.25, 0],
        "reference": [0, -1.5, -2.5, 0],
        "real": [0, 1, 1, 0],
    }
    assert (batch["scores"].dtype, batch["real"].dtype) == (np.float16, np.float32)
    assert not any(array[1].any() for array in batch.values())


def test_values_of_several_numbers_a_token_keep_their_shape_and_an_empty_batch_has_them_too() -> None:
    states = np.arange(6, dtype=np.float32).reshape(3, 2)
    example = Example(np.array([1, 7, 2], np.int32), np.array([False, True, True]), {"states": states})
    batch = lay([[example]], 1, 4)
    assert np.array_equal(batch["states"], np.concatenate([states, np.zeros((1, 2), np.float32)])[None])
    empty = lay([], 1, 4, 3, Features.of([example]) | Features(facts=("real",)))
    assert {name: array.shape for name, array in empty.items() if name in ("states", "real")} == {"states": (1, 4, 2), "real": (1, 3)}


@settings(deadline=None, max_examples=30)
@given(lengths, st.integers(0, 2**32), st.sampled_from(["packed", "none"]), st.integers(1, 4))
def test_the_sides_of_a_pair_are_neighbours_in_one_row(lengths: list[tuple[int, int]], seed: int, packing: str, hosts: int) -> None:
    examples = min(5, len(lengths))
    config = BatchConfig(examples=examples, sequence_length=LENGTH, packing=packing)  # type: ignore[arg-type]
    batches = make_batches(pairs(lengths), config, seed, multiple=hosts)
    whole = batches.batch(0)
    found = []
    for tokens, segments, real in zip(whole["tokens"], whole["segments"], whole["real"], strict=True):
        numbers = [int(tokens[segments == slot + 1][-1]) for slot in range(int(real.sum()))]
        assert real.tolist() == [1] * len(numbers) + [0] * (batches.slots - len(numbers))
        assert segments.max() == len(numbers)
        assert all(two == one + 1 for one, two in zip(numbers[::2], numbers[1::2], strict=True))
        found += numbers[::2]
    assert len(set(found)) == len(found) == examples
    share = batches.rows // hosts
    parts = [batches.batch(0, slice(host * share, (host + 1) * share)) for host in range(hosts)]
    assert equal(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


@settings(deadline=None, max_examples=30)
@given(lengths, st.integers(0, 2**32))
def test_the_slots_of_a_run_hold_every_row(lengths: list[tuple[int, int]], seed: int) -> None:
    mixture = Mixture({"one": pairs(lengths), "two": pairs(lengths)}, {"one": 2.5, "two": 1})
    batches = make_batches(mixture, BatchConfig(tokens=LENGTH, sequence_length=LENGTH), seed)
    for index in range(min(20, 2 * batches.steps_per_epoch)):
        assert batches.batch(index)["segments"].max() <= batches.slots
    assert {batch["real"].shape for batch in heldout_batches(pairs(lengths), 3, LENGTH)} == {
        (3, max(batch["segments"].max() for batch in heldout_batches(pairs(lengths), 3, LENGTH)))
    }


def test_a_pair_that_is_too_long_for_a_row_says_so() -> None:
    with pytest.raises(
        UserError, match=r"2 examples .* the sides of a pair, of 70 tokens do not fit .*=70 or a data\.max_length of at most 32"
    ):
        make_batches(pairs([(40, 30)]), BatchConfig(examples=1, sequence_length=LENGTH), 0)


def test_batches_without_facts_are_as_ever(tmp_path: Path) -> None:
    flat = make([5, 9, 20, 30, 6])
    batches = make_batches(flat, BatchConfig(examples=5, sequence_length=LENGTH), 0)
    assert list(batches.batch(0)) == ["tokens", "targets", "segments", "positions", "weights"]
    store.write(tmp_path, "train", flat.take(range(5)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.ids", "train.learnt", "train.offsets.npy"]


def test_facts_that_are_known_later_join_the_batches_in_every_way_of_reading() -> None:
    some = pairs([(5, 9), (20, 30), (6, 7)])
    batches = make_batches(some, BatchConfig(examples=3, sequence_length=LENGTH), 0)
    before = batches.batch(0)
    batches.read_from(Annotated(some, {"reference": np.array([[1, 2], [3, 4], [5, 6]], np.float32)}))
    [streamed] = batches.stream(0, 1)
    after = batches.batch(0)
    assert equal(streamed, after)
    assert equal(before, {name: after[name] for name in before})
    for tokens, segments, reference in zip(after["tokens"], after["segments"], after["reference"], strict=True):
        for slot in range(segments.max()):
            assert reference[slot] == tokens[segments == slot + 1][-1]  # ids are numbers from 1, and so are the facts here


def test_the_token_store_keeps_facts_and_groups(tmp_path: Path) -> None:
    some = pairs([(5, 9), (20, 30), (6, 7)])
    assert store.write(tmp_path, "train", some.take(range(3))) == 6
    again = Grouped(store.read(tmp_path, "train"), 2)
    assert again.features == some.features == Features(facts=("real",), parts=2)
    assert again.lengths.tolist() == [14, 50, 13]
    assert equal(collate(again.take([2, 0]), 2, LENGTH), collate(some.take([2, 0]), 2, LENGTH))
    assert Concatenated([again, make([3])]).features.parts == 2
    np.save(tmp_path / "train.facts.npy", np.load(tmp_path / "train.facts.npy")[:5])
    with pytest.raises(ValueError, match=r"train\.facts\.npy has the facts of 5 examples, not of 6"):
        store.read(tmp_path, "train")


def test_a_group_of_examples_in_memory_is_made_of_them() -> None:
    one, two = Example.answering(np.array([1, 2], np.int32), 1), Example.answering(np.array([3], np.int32), 1)
    assert Group((one, two)).ids.tolist() == [1, 2, 3]
    assert Group((one, two)).learnt.tolist() == [False, True, False]
    assert Examples.of([one, two]).features == Features()
