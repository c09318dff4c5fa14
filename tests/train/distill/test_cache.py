"""Caches of a teacher's signal on disk, the stores that carry it, and what tells a wrong one."""

import dataclasses

import numpy as np
import pytest

from alpaca_jax.data.example import Example, Examples
from alpaca_jax.data.mixture import Concatenated
from alpaca_jax.data.pipeline import heldout_batches
from alpaca_jax.errors import UserError
from alpaca_jax.train.distill import cache, teachers
from alpaca_jax.train.distill.asking import counted
from alpaca_jax.train.distill.cache import Kept
from alpaca_jax.train.distill.config import TeacherConfig
from alpaca_jax.train.distill.signals import Shared, Told

KEY = {"teachers": {"one": "a"}, "records, template or truncation": "b", "signal": "exact"}
KEPT = {"hidden_0": Kept("float16", (2,)), "top": Kept("int32")}


@pytest.fixture
def store():
    random = np.random.default_rng(0)
    return Examples.of([Example.answering(random.integers(3, 90, n).astype(np.int32), max(1, n // 3)) for n in (5, 9, 3, 14, 7, 1)])


def ask(batch, number):
    """What a teacher would say if it knew only each token and its place."""
    pair = np.stack([batch["tokens"], batch["positions"]], axis=-1)
    return {"hidden_0": pair.astype(np.float16), "top": batch["tokens"] * 10}


def test_each_target_gets_what_was_said_in_its_place_however_the_rows_are_laid(store, tmp_path):
    cache.build(tmp_path / "cache", KEY, store, KEPT, rows=2, length=16, ask=ask)
    told = cache.opened(tmp_path / "cache", KEY, store)
    assert isinstance(told, Told) and told.starts[-1] == sum(int(each.learnt[1:].sum()) for each in store.take(range(6)))
    for rows, length in ((1, 14), (3, 40)):
        for batch in heldout_batches(told, rows, length):
            where = batch["weights"] > 0
            np.testing.assert_array_equal(batch["top"], np.where(where, batch["tokens"] * 10, 0))
            np.testing.assert_array_equal(batch["hidden_0"][..., 1], np.where(where, batch["positions"], 0))
            assert (batch["hidden_0"].dtype, batch["hidden_0"].shape) == (np.float16, (rows, length, 2))


def test_an_empty_host_has_the_same_arrays(store, tmp_path):
    cache.build(tmp_path / "cache", KEY, store, KEPT, rows=2, length=16, ask=ask)
    told = cache.opened(tmp_path / "cache", KEY, store)
    assert told.features.tokens == {"hidden_0": (np.dtype(np.float16), (2,)), "top": (np.dtype(np.int32), ())}


@pytest.mark.parametrize("name", ["teachers", "records, template or truncation", "signal"])
def test_a_cache_of_something_else_is_named(store, tmp_path, name):
    cache.build(tmp_path / "cache", KEY, store, KEPT, rows=2, length=16, ask=ask)
    with pytest.raises(UserError, match=f"cache of other {name} than this run's"):
        cache.opened(tmp_path / "cache", KEY | {name: "other"}, store)


def test_a_damaged_cache_is_named(store, tmp_path):
    cache.build(tmp_path / "cache", KEY, store, KEPT, rows=2, length=16, ask=ask)
    file = tmp_path / "cache" / "hidden_0"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(UserError, match="is damaged.*delete it"):
        cache.opened(tmp_path / "cache", KEY, store)
    assert cache.opened(tmp_path / "none", KEY, store) is None


def test_draws_are_counted():
    ids = np.array([[[3, 3, 5, 9], [1, 1, 1, 1]]])
    distinct, counts = counted(ids)
    assert distinct.tolist() == [[[3, 5, 9, 0], [1, 0, 0, 0]]]
    assert counts.tolist() == [[[2, 1, 1, 0], [4, 0, 0, 0]]]


@dataclasses.dataclass
class _Teacher:
    config: TeacherConfig


def test_teachers_teach_their_own_sources(store):
    known = {"math": _Teacher(TeacherConfig(source="a", data=("sums",))), "all": _Teacher(TeacherConfig(source="b", weight=3.0))}
    shares = teachers.shares(known, ["sums", "texts"], [6, 6])
    assert shares[:6].tolist() == [[0.25, 0.75]] * 6 and shares[6:].tolist() == [[0.0, 1.0]] * 6
    [batch] = heldout_batches(Shared(Concatenated([store, store]), shares), 2, 64)
    assert set(map(tuple, batch["shares"][batch["weights"] > 0].tolist())) == {(0.25, 0.75), (0.0, 1.0)}


def test_a_source_without_a_teacher_and_a_teacher_of_no_source_are_named():
    with pytest.raises(UserError, match=r"data.sources.texts has no teacher"):
        teachers._check_data({"math": TeacherConfig(source="a", data=("sums",))}, ["sums", "texts"])
    with pytest.raises(UserError, match=r"objective.teachers.math.data names sum, .* did you mean sums"):
        teachers._check_data({"math": TeacherConfig(source="a", data=("sum",))}, ["sums"])
