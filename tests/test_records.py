import json

import pytest

from alpaca_jax import records
from alpaca_jax.errors import UserError
from alpaca_jax.records import Manifest, Record


def lines(path, *items):
    path.write_text("".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items))
    return path


ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


def test_what_is_written_is_read_back(tmp_path):
    kept = [Record("Say hi.", "", "Hi \u2028 there\n", provenance={"model": "m"}), Record("Zwölf?", "x", "")]
    digest = records.write(tmp_path / "records.jsonl", kept)
    found = records.read(tmp_path)
    assert found.records == kept and found.sha256 == digest and found.skipped == 0
    assert kept[0].id != kept[1].id and len(kept[0].id) == 16


def test_the_alpaca_array_and_conversations(tmp_path):
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps([ALPACA]))
    array = records.read(tmp_path / "a.json").records
    assert (array[0].instruction, array[0].input, array[0].output) == ("Add.", "1 and 2", "3")
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "More"},
    ]
    sharegpt = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    found = records.read(lines(tmp_path / "c.jsonl", {"messages": messages}, {"id": 7, "conversations": sharegpt}))
    assert [(r.instruction, r.output) for r in found.records] == [("Hi", "Ho"), ("Q", "A")]
    assert found.records[0].provenance == {"system": "Be short."} and found.records[1].id == "7" and found.shortened == 1


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('{"instruction": "cut', "Unterminated string"),
        ({"instruction": "x"}, "lacks the field output"),
        ({"instruction": " ", "output": "y"}, "instruction is empty"),
        ({"instruction": ["x"], "output": "y"}, "instruction must be a string, got list"),
        ([1], "expected a JSON object, got list"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "must begin with a user's turn"),
        ({"conversations": [{"from": "human"}]}, "conversations must be a list of objects with from and a text in value"),
    ],
)
def test_a_broken_line_is_named_or_skipped_and_counted(tmp_path, broken, said):
    file = lines(tmp_path / "r.jsonl", ALPACA, broken, ALPACA)
    with pytest.raises(UserError, match=r"r\.jsonl, line 2: .*data\.on_error=skip") as raised:
        records.read(file)
    assert said in str(raised.value)
    found = records.read(file, on_error="skip")
    assert len(found.records) == 2 and found.skipped == 1


def test_bytes_that_are_not_text_are_named(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(json.dumps(ALPACA).encode() + b"\n\xff\xfe\n")
    with pytest.raises(UserError, match="line 2: .*utf-8"):
        records.read(tmp_path / "r.jsonl")


def test_a_broken_array_names_the_record_or_the_place(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([ALPACA, {"instruction": "x"}]))
    with pytest.raises(UserError, match="record 2: lacks the field output"):
        records.read(file)
    file.write_text(json.dumps([ALPACA])[:-5])
    with pytest.raises(UserError, match="not a JSON array"):
        records.read(file, on_error="skip")


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(UserError, match="no record in it"):
        records.read(tmp_path / "r.jsonl")


def test_no_file_no_folder(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(UserError, match="no records there"):
            records.read(path)


def test_the_split_does_not_depend_on_the_order_of_the_file():
    made = [Record(f"instruction {i}") for i in range(50)]
    train, heldout = records.split(made, 12)
    assert len(train) == 38 and len(heldout) == 12 and sorted(r.id for r in train + heldout) == sorted(r.id for r in made)
    assert {r.id for r in records.split(made[::-1], 12)[1]} == {r.id for r in heldout}
    assert {r.id for r in records.split(made, 6)[1]} <= {r.id for r in heldout}
    with pytest.raises(UserError, match="heldout=50"):
        records.split(made, 50)


def test_the_published_alpaca_records(data_dir):
    found = records.read(data_dir / "alpaca_data.json")
    assert len(found.records) == 52_002 and found.skipped == 0
    assert sum(1 for r in found.records if r.input) == 20_679 and sum(1 for r in found.records if not r.output) == 28


def test_a_manifest_is_read_back_and_a_foreign_one_refused(tmp_path):
    manifest = Manifest(
        method="magpie",
        teacher={"model": "m"},
        sampling={},
        seed=1,
        records=2,
        sha256="s",
        counts={"kept": 2},
        requests=4,
        prompt_tokens=5,
        completion_tokens=6,
        dollars=0.0,
        doubtful_dollars=0.0,
        prices={},
        seconds=1.5,
        stopped_by="count",
        versions={},
        made="2026-01-01T00:00:00+00:00",
    )
    manifest.write(tmp_path / "manifest.json")
    assert Manifest.read(tmp_path / "manifest.json") == manifest
    (tmp_path / "manifest.json").write_text('{"other": 1}')
    with pytest.raises(UserError, match="not a manifest"):
        Manifest.read(tmp_path / "manifest.json")
