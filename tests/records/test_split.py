"""The split: by hashes alone, and with every copy of a text on one side."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splits import split_records

from alpaca_jax import records
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record


def test_the_split_does_not_depend_on_the_order_of_the_file():
    made = [Record(f"instruction {i}") for i in range(50)]
    train, heldout = split_records(made, 12)
    assert len(train) == 38 and len(heldout) == 12 and sorted(r.id for r in train + heldout) == sorted(r.id for r in made)
    assert {r.id for r in split_records(made[::-1], 12)[1]} == {r.id for r in heldout}
    assert {r.id for r in split_records(made, 6)[1]} <= {r.id for r in heldout}
    with pytest.raises(UserError, match="heldout=50"):
        split_records(made, 50)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.data())
def test_the_lowest_ranks_are_held_out(ranks, data):
    heldout = data.draw(st.integers(0, len(ranks) - 1))
    chosen = records.heldout_ids(np.array(ranks, np.uint64), heldout)
    assert chosen.dtype == bool
    assert sorted(np.flatnonzero(chosen)) == sorted(sorted(range(len(ranks)), key=lambda i: (ranks[i], i))[:heldout])


def test_a_rank_is_the_start_of_the_hash_of_the_id():
    made = [Record(f"instruction {i}", id=f"{i}") for i in range(300)]
    digests = [hashlib.sha256(record.id.encode()).digest() for record in made]
    assert [records.rank(record).to_bytes(8, "big") for record in made] == [digest[:8] for digest in digests]
    whole = sorted(range(300), key=lambda i: digests[i])[:40]
    assert {record.id for record in split_records(made, 40)[1]} == {f"{i}" for i in whole}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 50)), min_size=2, max_size=30), st.data())
def test_copies_stand_on_one_side_and_unique_records_where_they_stood(made, data):
    texts, ranks = (np.array(each, np.uint64) for each in zip(*made, strict=True))
    heldout = data.draw(st.integers(0, len(made) - 1))
    if heldout and len(set(texts.tolist())) == 1:
        with pytest.raises(UserError, match="all have the same text"):
            records.heldout_ids(ranks, heldout, texts)
        return
    chosen = records.heldout_ids(ranks, heldout, texts)
    assert not set(texts[chosen]) & set(texts[~chosen])
    assert (heldout <= chosen.sum() or len(set(texts[~chosen].tolist())) == 1) and (~chosen).sum() and (not heldout or chosen.sum())
    unique = np.arange(len(made), dtype=np.uint64)
    assert (records.heldout_ids(ranks, heldout, unique) == records.heldout_ids(ranks, heldout)).all()


def test_copies_with_other_ids_follow_the_lowest_and_a_text_of_many_copies_comes_last():
    ranks, texts = np.array([5, 1, 9, 2, 3], np.uint64), np.array([7, 8, 8, 9, 9], np.uint64)
    assert records.heldout_ids(ranks, 1, texts).tolist() == [True, False, False, False, False]  # the only text without copies
    assert records.heldout_ids(ranks, 2, texts).tolist() == [False, True, True, False, False]
    assert records.heldout_ids(ranks, 3, texts).tolist() == [False, True, True, True, True]
    with pytest.raises(UserError, match="the 3 records all have the same text"):
        records.heldout_ids(ranks[:3], 1, np.array([7, 7, 7], np.uint64))


def test_a_copy_is_known_by_its_text_alone():
    same = [Record("Q", "", "A", id="1"), Record("Q", "", "A", id="2", provenance={"from": "x"}), Record("Q", "", "A", shown=(0,))]
    assert {record.text_id() for record in same} == {Record("Q", "", "A").id}
    assert {records.text_rank(record) for record in same} == {records.rank(Record("Q", "", "A"))}
    others = [Record("Q", "", "B"), Record("Q", "A"), Record("Q", "", "A", system="S"), Record("Q", "", "A", turns=(("Q", "A"),))]
    assert len({record.text_id() for record in [same[0], *others]}) == 5
