"""Every file is read whole, whatever it is packed and written in, or refused by what it is, within bounds of time and memory."""

import gzip
import json
from collections import Counter

import pyarrow
import pytest
from pyarrow import parquet

from alpaca_jax import records
from alpaca_jax.errors import UserError
from alpaca_jax.records import items, opening, tables

ITEMS = [{"instruction": f"Sag {number}.", "input": "", "output": f"Schön, {number}"} for number in range(3)]
LINES = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in ITEMS)
CSV = "instruction,input,output\n" + "".join(f'Sag {number}.,,"Schön, {number}"\n' for number in range(3))


def zstd(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def as_parquet(rows):
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def read(tmp_path):
    def read(name, content, on_error="stop"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(records.stream([file], on_error, Counter()))

    return read


@pytest.fixture
def refused(read):
    def refused(name, content, on_error="stop"):
        with pytest.raises(UserError) as raised:
            read(name, content, on_error)
        return str(raised.value)

    return refused


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", LINES), ("a.json", json.dumps(ITEMS, indent=1)), ("a.csv", CSV), ("A.NDJSON", LINES)]
)
@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress, zstd])
def test_each_form_in_each_encoding_and_compression(read, name, text, encoding, pack):
    content = text.encode(encoding)
    if encoding == "utf-16-be":
        content = content.removeprefix(b"\xfe\xff")
    found = read(name, pack(content))
    assert [(each.instruction, each.output) for each in found] == [(f"Sag {number}.", f"Schön, {number}") for number in range(3)]


def test_a_compression_is_known_by_its_content_and_may_have_several_parts(read):
    half = LINES.encode().splitlines(keepends=True)
    assert len(read("a.jsonl", gzip.compress(half[0], mtime=0) + gzip.compress(b"".join(half[1:]), mtime=0))) == 3
    assert len(read("b.jsonl.gz", zstd(half[0]) + zstd(b"".join(half[1:])))) == 3


def test_parquet_by_its_content_with_absent_keys_as_null(read):
    said = [{"role": role, "content": text, "tool_calls": None} for role, text in (("user", "Q"), ("assistant", "A"))]
    rows = [
        {"messages": said, "instruction": None, "output": None, "id": None},
        {"messages": None, "instruction": "Q", "output": "A", "id": 7},
    ]
    one, two = read("a.parquet", as_parquet(rows))
    assert (one.instruction, one.output, two.instruction, two.id) == ("Q", "A", "Q", "7")
    assert two.where.endswith("a.parquet, row 2")
    assert len(read("a.bin", as_parquet(ITEMS))) == 3


def test_parquet_with_bytes_that_are_no_text_is_named(refused):
    column = pyarrow.array([b"\xff\xfe"]).view(pyarrow.string())
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"instruction": column, "output": column}), sink)
    assert "not a whole Parquet file" in refused("a.parquet", sink.getvalue().to_pybytes(), "skip")


def test_a_table_in_its_dialects(read, refused):
    assert [each.output for each in read("a.tsv", "instruction\toutput\nQ\tA, and\n")] == ["A, and"]
    assert [each.output for each in read("a.csv", 'instruction;output\r\nQ;"A\n1; 2"\r\n\r\n')] == ["A\n1; 2"]
    assert "line 3: 1 values, where the first row names 2 columns (instruction, output)" in refused("b.csv", "instruction,output\nQ,A\nQ\n")
    assert "names a column twice" in refused("c.csv", "output,output\nQ,A\n")
    assert "not a whole table (unexpected end of data)" in refused("d.csv", 'instruction,output\nQ,"A\n')
    assert "byte 0xf6 is not UTF-8" in refused("e.csv", "instruction,output\nQ,schön\n".encode("latin-1"))


def test_an_array_is_streamed_whatever_its_blocks(read, monkeypatch):
    made = [{"instruction": "Q [{", "output": 'A "}] ' * number, "provenance": {"n": [number, 1e-3]}} for number in range(60)]
    text = json.dumps(made, ensure_ascii=False)
    for block in (1, 7, 64):
        monkeypatch.setattr("alpaca_jax.records.array.BLOCK", block)
        assert [each.output for each in read("a.json", text)] == [item["output"] for item in made]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", json.dumps(ITEMS[0], indent=2), "a pretty-printed JSON object, over several lines"),
        ("a.json", "\n".join(json.dumps(item, indent=2) for item in ITEMS), "a pretty-printed JSON object, over several lines"),
        ("a.json", json.dumps(ITEMS[0], indent=2)[:40], "pretty-printed), or cut off"),
        ("a.json", json.dumps({"data": ITEMS}, indent=2), "the records lie in a list under 'data', inside one object"),
        ("a.json", json.dumps({"version": 1, "rows": ITEMS}), "the records lie in a list under 'rows', inside one object"),
        ("a.json", json.dumps(ITEMS)[:-4], "not a JSON array (Unterminated string"),
        ("a.json", json.dumps(ITEMS)[:-1], "not a JSON array (it is cut off"),
        ("a.json", json.dumps(ITEMS)[:-1] + ",]", "a comma follows its last record"),
        ("a.json", json.dumps(ITEMS) + "x", "something follows its end: 'x'"),
        ("a.jsonl", LINES.replace("\n", "\r"), "its lines end in CR alone"),
        ("a.jsonl", f"{json.dumps([[1]])}\n{json.dumps([[1]])}\n", "expected a JSON object, got list"),
        (
            "a.jsonl",
            '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]\n' * 2,
            "a bare list of turns has to be named",
        ),
        ("a.jsonl", b"PK\x03\x04 and more", "a zip archive"),
        ("a.jsonl.gz", gzip.compress(b"PAR1" + b"\0" * 9, mtime=0), "Parquet inside another compression"),
        ("a.jsonl", b"BZh91AY", "this is bzip2"),
        ("a.jsonl", b"\0\1\2\3\4", "this is no text"),
        ("a.jsonl.gz", gzip.compress(b"x" * 257 + b"ustar" + b"x" * 300, mtime=0), "this is a tar archive"),
        ("a.json", "<!DOCTYPE html><html>", "a page of the web"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:1", "a pointer of Git LFS"),
        ("a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", "not a whole Parquet file"),
        ("a.parquet", as_parquet(ITEMS)[:-30], "not a whole Parquet file"),
        ("a.jsonl.zst", zstd(LINES.encode() * 50)[:-9], "not a whole Zstandard file"),
        ("a.jsonl.zst", LINES, "not a Zstandard file"),
        ("a.jsonl", b"\xff\xfe{\x00\x00\xd8\x00\x00", "not whole utf-16"),
        ("a.json", b'[{"instruction": "\xff"}]', "not a JSON array (not UTF-8"),
        ("a.json", "[" * 100_000, "nested too deep"),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_what_is_no_file_of_records_is_refused_by_what_it_is(refused, name, content, said, on_error):
    message = refused(name, content, on_error)
    assert name in message and "Traceback" not in message
    if on_error == "stop" or "a.jsonl" not in name or not said.startswith(("a bare", "expected")):
        assert said in message


@pytest.mark.parametrize(
    "line",
    [
        b'{"instruction": "Q", "output": "A", "provenance": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        rb'{"instruction": "Q", "output": "\ud83d"}',
        rb'{"instruction": "Q", "output": "A", "id": "\udc00"}',
        rb'{"instruction": "Q", "output": "A", "\ud800": 1}',
        b'{"instruction": "Q\xff"}',
        b'{"n": ' + b"1" * 5000 + b"}",
    ],
)
def test_a_line_that_nothing_can_carry_is_named_or_skipped(read, refused, line):
    content = LINES.encode() + line + b"\n"
    assert "a.jsonl, line 4: " in refused("a.jsonl", content)
    assert len(read("a.jsonl", content, "skip")) == 3


@pytest.mark.parametrize("first", ['{"instruction": "cut, ', '{"a": {', '{"instruction": "Q",', "{", "x"])
def test_a_broken_first_line_is_one_broken_record(read, refused, first):
    assert "a.jsonl, line 1: not JSON" in refused("a.jsonl", f"{first}\n{LINES}")
    assert len(read("a.jsonl", f"{first}\n{LINES}", "skip")) == 3


def test_a_folder_names_all_that_cannot_be_read(tmp_path):
    for name, content in {
        "a.jsonl": LINES.encode(),
        "b.jsonl.zst": zstd(b"x" * 99)[:9],
        "c.parquet": b"PAR1",
        "d.txt.gz": gzip.compress(b"", mtime=0),
    }.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"(?s)b\.jsonl\.zst: not a whole Zstandard.*c\.parquet: not a whole Parquet"):
        records.check(records.files(tmp_path))


def test_an_empty_shard_is_no_error(tmp_path):
    for name, content in {
        "a.jsonl": LINES.encode(),
        "b.txt": b"",
        "c.jsonl.gz": gzip.compress(b"", mtime=0),
        "d.csv": b"",
        "e.jsonl": b"\n \n",
    }.items():
        (tmp_path / name).write_bytes(content)
    assert len(records.read(tmp_path).records) == 3


# --- bounds: small here, so that the tests are quick ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_a_line_or_an_element_has_a_longest_length(refused, monkeypatch, name):
    monkeypatch.setattr(items, "LONGEST", 2**20)
    text = {"a.json": '[{"instruction": "', "a.csv": "instruction,output\n"}.get(name, '{"instruction": "') + "x" * 3 * 2**20
    content = gzip.compress(text.encode(), 1, mtime=0) if name.endswith("gz") else text
    assert "which no record is" in refused(name, content, "skip")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("begin", ["", "instruction,output\n", '{"instruction": "Q", "output": "A"}\n'])
def test_empty_lines_without_end_are_refused(refused, monkeypatch, name, begin):
    monkeypatch.setattr(items, "BLANK", 1000)
    monkeypatch.setattr(tables, "BLANK", 1000)
    if name == "a.csv" or not begin.startswith("i"):
        assert "more than 1,000 empty lines in a row" in refused(name, begin + "\n" * 100_000, "skip")


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_what_unpacks_to_far_more_than_itself_is_refused(refused, monkeypatch, pack, name):
    monkeypatch.setattr(opening, "ALLOWANCE", 2**20)
    content = {"a.txt": b"x" * 2**23, "a.jsonl": b" " * 2**23, "a.json": b'["' + b"x" * 2**23}[name]
    assert "as no text does" in refused(name, pack(content), "skip")


def test_parquet_that_claims_more_than_its_size_is_refused(refused, monkeypatch):
    monkeypatch.setattr(tables, "ALLOWANCE", 1000)
    assert "as no file of texts does" in refused("a.parquet", as_parquet([{"instruction": "x" * 9, "output": "y"}] * 900_000))


def test_skipping_ends_where_nothing_is_whole(refused, monkeypatch):
    monkeypatch.setattr("alpaca_jax.records.reading.BROKEN", 50)
    assert "its first 50 records are broken, the last one because" in refused("a.jsonl", '{"a": 1}\n' * 100, "skip")
