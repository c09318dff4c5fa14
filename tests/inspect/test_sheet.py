"""The counts of the sheet are those of a hand count."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_jax import records
from alpaca_jax.data import origin
from alpaca_jax.data.example import Example, Examples
from alpaca_jax.inspect import sheet
from alpaca_jax.inspect.sheet import Facts


def test_facts_of_the_records(files):
    assert sheet.facts(records.read(files / "records.jsonl").records) == Facts(
        records=12, with_input=2, several_turns=1, empty_output=1, same_instruction=2, same_prompt=1
    )


def test_documents_are_no_repeated_instructions():
    documents = [records.Record(instruction="", output=text) for text in ("one", "two")]
    assert sheet.facts(documents) == Facts(records=2, documents=2)


def test_a_system_message_makes_another_prompt():
    twice = [records.Record("Go.", output="Yes.", system=system) for system in ("", "Be brief.", "Be brief.")]
    assert sheet.facts(twice) == Facts(records=3, with_system=2, same_instruction=2, same_prompt=1)


def test_lengths_tell_what_is_read_from_what_is_learnt(monkeypatch):
    monkeypatch.setattr(sheet, "AT_ONCE", 2)
    learnt = [[0, 1, 1], [0, 0, 0, 1, 0, 1, 1], [0, 1]]
    found = sheet.lengths(Examples.of(Example(np.arange(len(each), dtype=np.int32), np.array(each, bool)) for each in learnt))
    assert (found.full.tolist(), found.read.tolist(), found.learnt.tolist()) == ([3, 7, 2], [1, 4, 1], [2, 3, 1])
    assert found.table()["full"] == {
        "mean": 4.0,
        "median": 3.0,
        "p95": pytest.approx(6.6),
        "p99": pytest.approx(6.92),
        "max": 7,
        "total": 12,
    }


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_a_histogram_holds_every_value_once(values):
    bars = sheet.histogram(np.array(values))
    assert sum(count for *_, count in bars) == len(values)
    for low, high, count in bars:
        assert count == sum(low <= value <= high for value in values)
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(bars))


def manifest(sha256):
    kinds = {str: "", int: 0, float: 0.0}
    fields = {field.name: kinds.get(field.type, {}) for field in dataclasses.fields(records.Manifest)}
    fields |= {"sha256": sha256, "method": "magpie"}
    return json.dumps(fields)


def test_the_manifest_beside_the_records(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n')

    def source():
        return sheet.describe("records", origin.find(tmp_path))

    assert source() == sheet.Source("records", (str(file),), None, False)
    (tmp_path / "manifest.json").write_text(manifest(records.sha256([file])))
    assert source().manifest.method == "magpie" and not source().changed
    file.write_text('{"instruction": "a", "output": "c"}\n')
    assert source().changed
    (tmp_path / "manifest.json").write_text('{"name": "of another program"}')
    assert source().manifest is None and not source().changed
