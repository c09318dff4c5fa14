"""Batches: exactly so many examples a step or full rows, decided by (seed, index) alone, in rows that hold every step, on any hosts."""

import weakref

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numbered import equal, make, numbers

from alpaca_jax.config import parse
from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Example, Examples
from alpaca_jax.data.pipeline import heldout_batches, make_batches
from alpaca_jax.data.plan import deal
from alpaca_jax.errors import UserError

LENGTH = 64


@pytest.fixture
def some() -> Examples:
    return make(np.random.default_rng(0).integers(2, LENGTH + 1, 50).tolist())


lengths = st.lists(st.integers(2, LENGTH), min_size=1, max_size=60)
seeds = st.integers(0, 2**32)
packings = st.sampled_from(["packed", "none"])


def configured(lengths: list[int], size: int, kind: str) -> BatchConfig:
    """A config of each kind that these lengths can be batched by."""
    if kind == "tokens":
        assume(sum(lengths) > (size - 1) * LENGTH)  # then they fill so many rows
        return BatchConfig(tokens=size * LENGTH, sequence_length=LENGTH)
    return BatchConfig(examples=min(size, len(lengths)), sequence_length=LENGTH, packing=kind)  # type: ignore[arg-type]


kinds = st.sampled_from(["packed", "none", "tokens"])


@settings(deadline=None)
@given(lengths, st.integers(1, 9), seeds, packings)
def test_an_epoch_holds_no_example_twice(lengths: list[int], examples: int, seed: int, packing: str) -> None:
    examples = min(examples, len(lengths))
    batches = make_batches(make(lengths), BatchConfig(examples=examples, sequence_length=LENGTH, packing=packing), seed, epochs=2)
    assert batches.steps_per_epoch == len(lengths) // examples
    assert batches.left_out == len(lengths) % examples
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        seen = [numbers(batches.batch(index)) for index in steps]
        assert all(len(step) == examples for step in seen)
        assert len({number for step in seen for number in step}) == batches.steps_per_epoch * examples


@settings(deadline=None)
@given(lengths, st.integers(1, 6), seeds)
def test_steps_by_tokens_have_full_rows_and_as_many_steps_in_every_epoch(lengths: list[int], rows: int, seed: int) -> None:
    batches = make_batches(make(lengths), configured(lengths, rows, "tokens"), seed)
    assert batches.rows == rows
    for epoch in range(3):
        made = [batches.batch(epoch * batches.steps_per_epoch + step) for step in range(batches.steps_per_epoch)]
        assert {batch["tokens"].shape for batch in made} == {(rows, LENGTH)}
        assert all((batch["segments"] > 0).any(1).all() for batch in made)
        held = [number for batch in made for number in numbers(batch)]
        assert len(set(held)) == len(held) == len(lengths) - batches.statistics(epoch)["left_out"]
        assert sum((batch["segments"] > 0).sum() for batch in made) == sum(lengths[number] for number in held)


@settings(deadline=None)
@given(lengths, st.integers(1, 6), kinds, seeds, st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_seed_and_index_alone_decide_a_batch(lengths: list[int], size: int, kind: str, seed: int, asked: list[int]) -> None:
    config = configured(lengths, size, kind)
    if kind == "packed":
        config = BatchConfig(examples=config.examples, sequence_length=LENGTH, rows=6)
    one = make_batches(make(lengths), config, seed)
    for index in asked:  # in any order, from any object
        assert equal(one.batch(index), make_batches(make(lengths), config, seed).batch(index))


@settings(deadline=None)
@given(lengths, st.integers(1, 6), kinds, seeds, st.integers(1, 4), st.integers(1, 4))
def test_the_rows_of_the_hosts_are_the_whole_batch(lengths: list[int], size: int, kind: str, seed: int, hosts: int, devices: int) -> None:
    config = configured(lengths, size, kind)
    multiple = 1 if kind == "tokens" else hosts * devices
    batches = make_batches(make(lengths), config, seed, multiple=multiple)
    assume(batches.rows % hosts == 0)
    share = batches.rows // hosts
    for index in range(min(3, batches.steps_per_epoch)):
        parts = [batches.batch(index, slice(host * share, (host + 1) * share)) for host in range(hosts)]
        assert equal(batches.batch(index), {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def test_a_host_reads_only_its_rows(some: Examples) -> None:
    class Watched(Examples):
        def take(self, indices: list[int]) -> list[Example]:
            taken.extend(indices)
            return super().take(indices)

    taken: list[int] = []
    batches = make_batches(
        Watched(some.ids, some.learnt, some.offsets), BatchConfig(examples=8, sequence_length=LENGTH), seed=0, multiple=2
    )
    assert taken == []  # nor does anything for the plan
    half = batches.batch(2, slice(0, batches.rows // 2))
    assert sorted(taken) == numbers(half)
    assert 0 < len(taken) < 8


def test_another_seed_or_epoch_gives_other_batches(some: Examples) -> None:
    for config in (BatchConfig(examples=5, sequence_length=LENGTH), BatchConfig(tokens=5 * LENGTH, sequence_length=LENGTH)):
        one, other = make_batches(some, config, seed=0), make_batches(some, config, seed=1)
        assert numbers(one.batch(0)) != numbers(other.batch(0))
        assert numbers(one.batch(0)) != numbers(one.batch(one.steps_per_epoch))


def test_rows_are_the_fewest_that_hold_every_step(some: Examples) -> None:
    config = BatchConfig(examples=8, sequence_length=LENGTH)
    batches = make_batches(some, config, seed=3, epochs=3)
    used = [int((batches.batch(index)["segments"] > 0).any(1).sum()) for index in range(3 * batches.steps_per_epoch)]
    assert batches.rows == max(used)
    assert make_batches(some, config, seed=3, steps=3 * 6).rows == batches.rows
    assert make_batches(some, config, seed=3, epochs=3, multiple=4).rows == -(-batches.rows // 4) * 4
    fixed = make_batches(some, BatchConfig(examples=8, sequence_length=LENGTH, rows=20), seed=3, epochs=3)
    assert fixed.batch(2)["tokens"].shape == (20, LENGTH)
    with pytest.raises(UserError, match=rf"batch\.rows=2 of 64 slots .* one needs {batches.rows}: give batch\.rows={batches.rows}"):
        make_batches(some, BatchConfig(examples=8, sequence_length=LENGTH, rows=2), seed=3, epochs=3)
    with pytest.raises(UserError, match=r"batch\.rows=15 .* by 4 devices: give batch\.rows=16"):
        make_batches(some, BatchConfig(examples=8, sequence_length=LENGTH, rows=15), seed=3, epochs=3, multiple=4)


def test_rows_that_hold_not_even_the_first_epoch_are_refused_with_a_number_that_holds_all() -> None:
    some, config = make([64, 64, 64, 2, 2, 2]), BatchConfig(examples=4, sequence_length=LENGTH)  # two are left out of each epoch
    rows = {seed: [make_batches(some, config, seed, epochs=epochs).rows for epochs in (1, 4)] for seed in range(20)}
    seed, (first, needed) = next((seed, found) for seed, found in rows.items() if found[0] < found[1])
    few = BatchConfig(examples=4, sequence_length=LENGTH, rows=first - 1)
    with pytest.raises(UserError, match=rf"one needs {needed}: give batch\.rows={needed} or null"):
        make_batches(some, few, seed, epochs=4)


def test_only_the_plans_in_use_stay_in_memory(some: Examples) -> None:
    batches = make_batches(some, BatchConfig(examples=8, sequence_length=LENGTH), seed=0, epochs=8)
    plans = [weakref.ref(batches.plan(epoch)) for epoch in range(8)]
    assert sum(plan() is not None for plan in plans) <= 2
    one, other = batches.plan(0), batches.plan(1)  # the prefetching threads go back and forth between the two
    assert batches.plan(0) is one and batches.plan(1) is other


def test_rows_hold_the_part_of_an_epoch_too_that_a_run_ends_with() -> None:
    some, config = make([64, 64, 64, 2, 2, 2]), BatchConfig(examples=4, sequence_length=LENGTH)
    whole = {seed: [make_batches(some, config, seed, epochs=epochs).rows for epochs in (1, 2)] for seed in range(20)}
    seed, (_, needed) = next((seed, rows) for seed, rows in whole.items() if rows[0] < rows[1])
    assert make_batches(some, config, seed, epochs=1.5).rows == needed


def test_a_later_epoch_is_checked_before_its_first_step() -> None:
    # The long one is left out of one epoch in five: then the others fit.
    examples, config = make([32, 16, 16, 16, 16]), BatchConfig(examples=4, sequence_length=LENGTH, rows=1)

    def fits(seed: int) -> bool:
        return 0 not in deal(examples.lengths, 1, 4, np.random.default_rng([seed, 0]))

    seed = next(seed for seed in range(100) if fits(seed))
    batches = make_batches(examples, config, seed)
    assert numbers(batches.batch(0)) == [1, 2, 3, 4]
    later = next(epoch for epoch in range(100) if 0 in deal(examples.lengths, 1, 4, np.random.default_rng([seed, epoch])))
    with pytest.raises(UserError, match=r"batch\.rows=1 of 64 slots don't hold every step of 4 examples, one needs 2: give batch\.rows=2"):
        batches.batch(later)
    assert make_batches(examples, BatchConfig(examples=4, sequence_length=LENGTH), seed, steps=later + 1).rows == 2


def test_unpacked_every_example_has_a_row_as_long_as_the_steps_longest_needs() -> None:
    lengths = np.random.default_rng(0).geometric(0.03, 60).clip(2, 256)
    lengths[:40] //= 4
    lengths = lengths.clip(2)
    config = BatchConfig(examples=3, sequence_length=256, packing="none", buckets=(60, 100))
    batches = make_batches(make(lengths.tolist()), config, seed=0)
    for index in range(20):
        batch = batches.batch(index)
        longest = lengths[batches.indices(index)].max()
        width = min(bucket for bucket in (60, 100, 256) if bucket >= longest)
        assert batch["tokens"].shape == (3, width)
        assert batches.row_length(index) == width
        assert (batch["segments"].max(1) == 1).all()
        # A host sees the longest example in the lengths of the step, whether or not it is its own.
        assert all(batches.batch(index, slice(row, row + 1))["tokens"].shape == (1, width) for row in range(3))
    assert {batches.row_length(index) for index in range(20)} == {60, 100, 256}
    exact = BatchConfig(examples=3, sequence_length=256, packing="none", buckets=tuple(range(1, 256)))
    lengths = np.random.default_rng(0).integers(240, 257, 60)  # so alike that the longest may have any place in its step
    batches = make_batches(make(lengths.tolist()), exact, seed=0)
    assert all(batches.row_length(index) == lengths[batches.indices(index)].max() for index in range(20))


def test_packing_changes_the_places_of_a_steps_examples_but_not_which_they_are(some: Examples) -> None:
    packed, padded = (
        make_batches(some, BatchConfig(examples=8, sequence_length=LENGTH, packing=packing), seed=0) for packing in ("packed", "none")
    )
    assert all(numbers(packed.batch(index)) == numbers(padded.batch(index)) for index in range(12))


def test_statistics_are_of_the_batches_themselves(some: Examples) -> None:
    for config in (
        BatchConfig(examples=8, sequence_length=LENGTH),
        BatchConfig(tokens=6 * LENGTH, sequence_length=LENGTH),
        BatchConfig(examples=8, sequence_length=LENGTH, packing="none", buckets=(48,)),
    ):
        batches = make_batches(some, config, seed=0)
        steps = batches.steps_per_epoch
        made = [batches.batch(index) for index in range(steps, 2 * steps)]
        tokens = np.array([(batch["segments"] > 0).sum() for batch in made])
        slots = np.array([batch["tokens"].size for batch in made])
        examples = sum(len(numbers(batch)) for batch in made)
        assert batches.statistics(1) == {
            "steps": steps,
            "examples": examples,
            "left_out": 50 - examples,
            "slots": pytest.approx(slots.mean()),
            "tokens_min": tokens.min(),
            "tokens_mean": pytest.approx(tokens.mean()),
            "tokens_max": tokens.max(),
            "utilisation_min": pytest.approx((tokens / slots).min()),
            "utilisation_mean": pytest.approx(tokens.sum() / slots.sum()),
        }
        assert [batches.fill(steps + step) for step in range(steps)] == pytest.approx(tokens / slots)


def test_what_cannot_be_batched_is_said(some: Examples) -> None:
    with pytest.raises(UserError, match=r"batch\.examples=51, but there are only 50 examples: give batch\.examples=50"):
        make_batches(some, BatchConfig(examples=51, sequence_length=LENGTH), seed=0)
    with pytest.raises(UserError, match=r"does not fit a row of 16 slots"):
        make_batches(some, BatchConfig(examples=5, sequence_length=16), seed=0)
    with pytest.raises(UserError, match="there are no examples to train on"):
        make_batches(make([]), BatchConfig(examples=1), seed=0)
    with pytest.raises(UserError, match=r"batch\.rows=7, but 8 examples, one a row, need 8: give batch\.rows=8 or null"):
        make_batches(some, BatchConfig(examples=8, rows=7, sequence_length=LENGTH, packing="none"), seed=0)
    with pytest.raises(
        UserError, match=r"batch\.tokens=192 are 3 rows of 64 slots, which 2 devices can't share evenly: give batch\.tokens=256"
    ):
        make_batches(some, BatchConfig(tokens=192, sequence_length=LENGTH), seed=0, multiple=2)


def test_too_many_tokens_a_step_are_refused_with_a_number_that_works(some: Examples) -> None:
    with pytest.raises(UserError, match=r"all examples together don't fill one step: give batch\.tokens=\d+ or fewer") as raised:
        make_batches(some, BatchConfig(tokens=100 * LENGTH, sequence_length=LENGTH), seed=0, multiple=4)
    most = int(str(raised.value).split("batch.tokens=")[-1].split()[0])
    assert make_batches(some, BatchConfig(tokens=most, sequence_length=LENGTH), seed=0, multiple=4).steps_per_epoch == 1
    with pytest.raises(UserError, match="don't fill one step"):
        make_batches(some, BatchConfig(tokens=most + 4 * LENGTH, sequence_length=LENGTH), seed=0, multiple=4)
    with pytest.raises(UserError, match="give more records"):
        make_batches(make([5]), BatchConfig(tokens=4 * LENGTH, sequence_length=LENGTH), seed=0, multiple=4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"batch\.examples=null and batch\.tokens=null: give one of them"),
        ({"examples": 8, "tokens": 1024}, r"batch\.examples=8 and batch\.tokens=1024: give one of them, and null for the other"),
        ({"examples": 0}, r"examples=0: give 1 or more"),
        ({"tokens": 1000}, r"batch\.tokens=1000 is not a whole number of rows of batch\.sequence_length=512: give batch\.tokens=512"),
        ({"tokens": 1024, "rows": 3}, r"batch\.tokens=1024 is 2 rows of 512, not batch\.rows=3"),
        ({"tokens": 1024, "packing": "none"}, r"batch\.tokens=1024 needs packed rows: give batch\.packing=packed"),
        ({"examples": 8, "buckets": [64]}, r"batch\.buckets are the row lengths of batch\.packing=none"),
        ({"examples": 8, "packing": "none", "buckets": [1024]}, r"batch\.buckets=\[1024\]: give lengths from 1 to"),
        ({"examples": 8, "packing": "none", "buckets": []}, r"batch\.buckets=\[\]: give lengths"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(BatchConfig, given)


def test_rows_may_be_said_beside_tokens() -> None:
    assert parse(BatchConfig, {"tokens": 1024, "rows": 2}).rows == 2


def test_heldout_batches_hold_every_example_once(some: Examples) -> None:
    batches = heldout_batches(some, rows=3, length=LENGTH)
    assert all(batch["tokens"].shape == (3, LENGTH) for batch in batches)
    assert sorted(number for batch in batches for number in numbers(batch)) == list(range(50))
    assert sum(batch["weights"].sum() for batch in batches) == some.lengths.sum() - len(some)
