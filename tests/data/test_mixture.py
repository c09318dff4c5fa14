"""Mixtures: how often an epoch shows each source's examples; batches of them hold exactly what was chosen."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import equal, make, numbers

from alpaca_jax.config import parse
from alpaca_jax.data.config import BatchConfig, DataConfig, SourceConfig
from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.mixture import Concatenated, Mixture
from alpaca_jax.data.pipeline import make_batches
from alpaca_jax.errors import UserError

LENGTH = 64


def stores(sizes: dict[str, int]) -> dict[str, ExampleStore]:
    """Stores of so many examples, numbered through all of them."""
    random, made, first = np.random.default_rng(0), {}, 0
    for name, size in sizes.items():
        made[name] = make(random.integers(2, LENGTH + 1, size).tolist(), first)
        first += size
    return made


def test_stores_end_to_end_are_one() -> None:
    parts = list(stores({"a": 3, "none": 0, "b": 4}).values())
    whole = Concatenated(parts)
    assert len(whole) == 7
    assert whole.lengths.tolist() == [*parts[0].lengths, *parts[2].lengths]
    assert [int(example.ids[1]) - 1 for example in whole.take([5, 0, 2, 6, 0])] == [5, 0, 2, 6, 0]
    assert whole.take([]) == []


def test_a_tenth_more_than_once_is_a_tenth_twice() -> None:
    mixture = Mixture(stores({"wiki": 100, "code": 50}), {"wiki": 1.1, "code": 0.5})
    again = []
    for epoch in range(3):
        shown = Counter(mixture.chosen(seed=7, epoch=epoch).tolist())
        assert all(shown[number] >= 1 for number in range(100))
        twice = {number for number, times in shown.items() if times == 2}
        assert len(twice) == 10 and max(twice) < 100
        assert sum(number >= 100 for number in shown) == 25 and max(shown.values()) == 2
        again.append(frozenset(twice))
    assert len(set(again)) == 3
    assert np.array_equal(mixture.chosen(7, 1), Mixture(stores({"wiki": 100, "code": 50}), {"wiki": 1.1, "code": 0.5}).chosen(7, 1))
    assert not np.array_equal(mixture.chosen(7, 1), mixture.chosen(8, 1))


def test_another_source_beside_it_does_not_change_what_is_chosen() -> None:
    alone = Mixture(stores({"a": 40}), {"a": 0.5}).chosen(3, 2)
    beside = Mixture(stores({"b": 9, "a": 40}), {"a": 0.5, "b": 1}).chosen(3, 2)
    assert (beside[9:] - 9).tolist() == alone.tolist()


def test_weights_are_shares_of_the_tokens() -> None:
    some = stores({"a": 300, "b": 100, "c": 50})
    mixture = Mixture.weighted(some, {"a": 1, "b": 2, "c": 1})
    total = sum(store.lengths.sum() for store in some.values())
    table = mixture.table()
    assert [row["source"] for row in table] == ["a", "b", "c"]
    assert [row["share"] for row in table] == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    assert [row["examples"] for row in table] == [300, 100, 50]
    assert sum(row["tokens"] for row in table) == total
    assert sum(row["tokens"] * row["epochs"] for row in table) == pytest.approx(total, rel=0.02)
    lengths = mixture.lengths[mixture.chosen(0, 0)]
    assert lengths.sum() == pytest.approx(total, rel=0.05)
    scaled = Mixture.configured(
        some, {name: SourceConfig(records=name, weight=weight) for name, weight in zip("abc", (10, 20, 10), strict=True)}
    )
    assert np.array_equal(scaled.chosen(0, 0), mixture.chosen(0, 0))


def test_configured_epochs() -> None:
    sources = {name: SourceConfig(records=name, epochs=epochs) for name, epochs in (("a", 2), ("b", 0.5))}
    assert Mixture.configured(stores({"a": 10, "b": 10}), sources).drawn == {"a": 20, "b": 5}


def test_a_source_that_shows_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.sources\.b has no examples: .* leave the source out"):
        Mixture(stores({"a": 3, "b": 0}), {"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"data\.sources\.b: 0\.01 epochs of its 10 examples use none of them: give at least 0\.1 epochs"):
        Mixture(stores({"a": 3, "b": 10}), {"a": 1, "b": 0.01})


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 20), st.integers(1, 30)), min_size=1),
    st.integers(0, 2**32),
    st.sampled_from([{"examples": 1}, {"examples": 3}, {"tokens": 2 * LENGTH}, {"examples": 2, "packing": "none"}]),
)
def test_batches_hold_what_an_epoch_chose(sources: dict[str, tuple[int, int]], seed: int, settings: dict[str, object]) -> None:
    some = stores({name: size for name, (size, _) in sources.items()})
    mixture = Mixture(some, {name: max(tenths / 10, 1 / size) for name, (size, tenths) in sources.items()})
    config = parse(BatchConfig, {"sequence_length": LENGTH, **settings})
    try:
        batches = make_batches(mixture, config, seed, epochs=3)
    except UserError:  # one example or row too few: nothing to hold
        assert mixture.epoch_size < 3 or (config.tokens and mixture.lengths[mixture.chosen(seed, 0)].sum() <= 2 * LENGTH)
        return
    steps = batches.steps_per_epoch
    for epoch in range(3):
        made = [batches.batch(index) for index in range(epoch * steps, (epoch + 1) * steps)]
        held = Counter(number for batch in made for number in numbers(batch))
        chosen = Counter(mixture.chosen(seed, epoch).tolist())
        assert held <= chosen
        targets = sum(int(mixture.lengths[number] - 1) * times for number, times in held.items())
        assert sum(batch["weights"].sum() for batch in made) == targets
        assert (chosen - held).total() == batches.statistics(epoch)["left_out"]
        if config.examples:
            assert held.total() == mixture.epoch_size // config.examples * config.examples


def test_one_store_shown_once_is_the_store() -> None:
    some = stores({"a": 50})
    config = BatchConfig(examples=8, sequence_length=LENGTH)
    alone, mixed = make_batches(some["a"], config, seed=0), make_batches(Mixture(some, {"a": 1}), config, seed=0)
    assert all(equal(alone.batch(index), mixed.batch(index)) for index in range(8))


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ({"a": {"weight": 0}}, r"sources\.a\.weight=0\.0: give more than 0"),
        ({"a": {"weight": -1.5}}, r"sources\.a\.weight=-1\.5: give more than 0"),
        ({"a": {"weight": float("nan")}}, r"sources\.a\.weight=nan: give more than 0"),
        ({"a": {"epochs": 1}, "b": {"epochs": 0}}, r"sources\.b\.epochs=0\.0: give more than 0"),
        ({"a": {"epochs": float("inf")}}, r"sources\.a\.epochs=inf"),
        ({"a": {"epochs": 1}, "b": {"weight": 1}}, r"data\.sources\.b\.weight and data\.sources\.a\.epochs can't be mixed"),
        ({"a": {"epochs": 1, "weight": 1}}, r"data\.sources\.a\.weight and data\.sources\.a\.epochs can't be mixed"),
        ({"a": {"epochs": 1}, "b": {}}, r"data\.sources\.b: give weight, its share of the tokens, or epochs"),
    ],
)
def test_sources_that_say_no_mixture_are_refused(sources: dict[str, dict[str, float]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(DataConfig, {"sources": {name: {"records": f"{name}.jsonl", **source} for name, source in sources.items()}})


def test_records_and_sources_are_not_both_given() -> None:
    with pytest.raises(UserError, match=r"data\.records=r\.jsonl and data\.sources: give only one of them"):
        parse(DataConfig, {"records": "r.jsonl", "sources": {"a": {"records": "a.jsonl", "epochs": 1}}})
