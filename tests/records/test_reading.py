import gzip
import hashlib
import json
from collections import Counter

import pytest

from alpaca_jax import records
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record


def lines(path, *items):
    path.write_text("".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items))
    return path


ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


def talk(*turns, **more):
    """A conversation: "user: text" and so on, as `messages`."""
    parted = [turn.split(": ", 1) for turn in turns]
    return {"messages": [{"role": role, "content": text} for role, text in parted]} | more


def test_what_is_written_is_read_back(tmp_path):
    kept = [Record("Say hi.", "", "Hi \u2028 there\n", provenance={"model": "m"}), Record("Zwölf?", "x", "")]
    digest = records.write(tmp_path / "records.jsonl", kept)
    found = records.read(tmp_path)
    assert found.records == kept and found.sha256 == digest and found.skipped == 0
    assert kept[0].id != kept[1].id and len(kept[0].id) == 16


def test_the_alpaca_array(tmp_path):
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps([ALPACA]))
    array = records.read(tmp_path / "a.json").records
    assert (array[0].instruction, array[0].input, array[0].output) == ("Add.", "1 and 2", "3")


def test_system_and_later_turns_are_written_where_there_are_any_and_are_part_of_the_id(tmp_path):
    plain = Record("Q", "", "A")
    kept = [plain, Record("Q", "", "A", system="S"), Record("Q", "", "A", turns=(("Q2", "A2"), ("Q3", "")))]
    records.write(tmp_path / "records.jsonl", kept)
    assert records.read(tmp_path).records == kept
    assert plain.id == hashlib.sha256(b'["Q", "", "A"]').hexdigest()[:16] and len({record.id for record in kept}) == 3
    written = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    texts = ["instruction", "input", "output", "id", "provenance"]
    assert [list(line) for line in written] == [texts, [*texts, "system"], [*texts, "turns"]]


def test_conversations_are_read_whole(tmp_path):
    sharegpt = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    items = [
        talk("system: Be short.", "user: Hi", "assistant: Ho", "user: More", "assistant: Ha"),
        {"id": 7, "conversations": sharegpt, "system": "Be long."},
        talk("user: Hi", "assistant: Ho", "user: And then?"),
        talk("assistant: Hello!", "user: Hi", "assistant: Ho"),
    ]
    found = records.read(lines(tmp_path / "c.jsonl", *items))
    first, second, third, fourth = found.records
    assert first == Record("Hi", "", "Ho", system="Be short.", turns=(("More", "Ha"),))
    assert second == Record("Q", "", "A", id="7", system="Be long.")
    assert third == fourth == Record("Hi", "", "Ho")
    assert found.shortened == 2  # the question without an answer, and the answer without a question


def test_texts_for_pre_training(tmp_path):
    lines(tmp_path / "a.jsonl", {"text": "One.\n", "provenance": {"from": "x"}}, ALPACA | {"text": "a template around it"})
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfTwo\r\nlines.")
    one, instruction, two = records.read(tmp_path).records
    assert (one.instruction, one.output, one.provenance) == ("", "One.\n", {"from": "x"})
    assert (two.instruction, two.output) == ("", "Two\r\nlines.")
    assert instruction.instruction == "Add."
    records.write(tmp_path / "again" / "records.jsonl", [one, two])
    assert records.read(tmp_path / "again").records == [one, two]


# --- files ------------------------------------------------------------------------------------------------------------------------


def test_shards_are_read_in_order_and_the_broken_one_is_named(tmp_path):
    lines(tmp_path / "a.jsonl", ALPACA)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(ALPACA | {"input": "2 and 2"}) + "\n" + "{\n")
    (tmp_path / "c.json").write_text(json.dumps([ALPACA | {"input": "3 and 2"}]))
    found = records.files(tmp_path)
    with pytest.raises(UserError, match=r"b\.jsonl\.gz, line 2: "):
        list(records.stream(found, "stop", Counter()))
    counted = Counter()
    assert [record.input for record in records.stream(found, "skip", counted)] == ["1 and 2", "2 and 2", "3 and 2"]
    assert counted["skipped"] == 1 and not counted["shortened"]


def test_a_gzip_file_that_is_cut_off_is_named(tmp_path):
    whole = gzip.compress((json.dumps(ALPACA) + "\n").encode() * 100)
    for content in (whole[:-20], b"no gzip at all"):
        (tmp_path / "r.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"r\.jsonl\.gz: not a whole gzip file"):
            records.read(tmp_path / "r.jsonl.gz", on_error="skip")


def test_a_stream_holds_one_line_at_a_time(tmp_path):
    long = tmp_path / "long.jsonl"
    long.write_bytes((json.dumps(ALPACA | {"output": "x" * 100_000}).encode() + b"\n") * 20)
    stream = records.stream([long], "stop", Counter())
    next(stream)
    with open(long, "r+b") as file:
        file.truncate(300_000)
    with pytest.raises(UserError, match=r"long\.jsonl, line [23]: "):
        list(stream)


def test_the_sha256_is_of_contents_and_order(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    a, b = tmp_path / "a", tmp_path / "b"
    assert records.sha256([a]) == hashlib.sha256(b"1").hexdigest()
    assert len({records.sha256(files) for files in ([a], [b], [a, b], [b, a], [a, a])}) == 5


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('{"instruction": "cut', "Unterminated string"),
        ({"instruction": "x"}, "lacks the field output"),
        ({"instruction": " ", "output": "y"}, "instruction is empty"),
        ({"instruction": ["x"], "output": "y"}, "instruction must be a string, got list"),
        ([1], "expected a JSON object, got list"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages must have a user's turn and an assistant's answer"),
        ({"messages": []}, "messages must have a user's turn and an assistant's answer"),
        (talk("system: s", "user: a", "user: b", "assistant: c"), "turn 3 of messages is by user, where the assistant's is expected"),
        (talk("user: a", "assistant: b", "assistant: c"), "turn 3 of messages is by assistant, where the user's is expected"),
        (talk("user: a", "assistant: b", "system: c", "user: d", "assistant: e"), "turn 3 of messages is by system"),
        (talk("user: a", "tool: b", "assistant: c"), "turn 2 of messages is by tool"),
        (talk("user:  ", "assistant: b"), "turn 1 of messages, the user's, is empty"),
        ({"messages": [{"role": "user", "content": None}]}, "messages must be a list of objects with role and a text in content"),
        (ALPACA | {"turns": [["only one"]]}, "turns must be a list of pairs of strings"),
        (ALPACA | {"turns": [[" ", "x"]]}, "turns: a user's text is empty"),
        (ALPACA | {"system": 1}, "system must be a string, got int"),
        ({"text": " "}, "text is empty"),
        ({"text": 3}, "text must be a string, got int"),
        ('{"instruction": "x", "output": "\\ud83d"}', "half of a surrogate pair"),
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
    with pytest.raises(UserError, match="line 2: not UTF-8"):
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


def test_the_published_alpaca_records(data_dir):
    found = records.read(data_dir / "alpaca_data.json")
    assert len(found.records) == 52_002 and found.skipped == 0
    assert sum(1 for r in found.records if r.input) == 20_679 and sum(1 for r in found.records if not r.output) == 28
