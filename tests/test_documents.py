"""JSON and YAML of strangers: what is read, and what each refusal says."""

import json
import time

import pytest

from alpaca_jax import documents
from alpaca_jax.errors import UserError


def test_plain_values_are_read():
    assert documents.json_value(b'\xef\xbb\xbf{"a": [1, "\\ud83d\\ude00"]}') == {"a": [1, "😀"]}
    assert documents.json_value("[NaN]") != [0]
    assert documents.yaml_value("a: &x [1, 2]\nb: *x\n", "f.yaml") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b'{"a": 1,\n "b": }', "line 2: not JSON"),
        (b'{"a":\n"\xff"}', "line 2: not UTF-8 \\(byte 0xff\\)"),
        (b"[" * 101 + b"]" * 101, "nested more than 100 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 100 deep"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested more than 100 deep"),
        (b'["\\ud800"]', "half of a surrogate pair \\(\\\\ud800\\)"),
        (b'{"\\uDFFF": 1}', "half of a surrogate pair"),
        ('["\ud800"]', "half of a surrogate pair"),
        (b"[" + b"9" * 5000 + b"]", "thousands of digits"),
    ],
)
def test_what_is_wrong_with_json_is_said(content, says):
    with pytest.raises(ValueError, match=says):
        documents.json_value(content)


def test_depth_is_bounded_exactly():
    assert documents.json_value("[" * 100 + "]" * 100) is not None
    with pytest.raises(ValueError, match="deep"):
        documents.json_value("[" * 102 + "]" * 102)


@pytest.mark.parametrize(
    ("content", "kind"), [("[1]", "a list"), ("3.5", "a number"), ("true", "a truth value"), ("null", "null"), ('"x"', "a text")]
)
def test_an_object_is_due(content, kind):
    with pytest.raises(UserError, match=f"config.json: an object is due here, and it holds {kind}"):
        documents.json_object(content, "config.json")


def test_an_object_names_where():
    with pytest.raises(UserError, match="^config.json, line 2: not JSON"):
        documents.json_object(b'{"a": 1,\n}', "config.json")


LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a:\n\tb: 1", "f.yaml, line 2: not YAML .*not by tabs"),
        ("a: [1\n", "f.yaml, line 2: not YAML"),
        (b"a: \xff", "f.yaml: not YAML \\(line 1: not UTF-8"),
        ("[" * 5000, "nested more than 100 deep"),
        ("{a: " * 5000, "nested more than 100 deep"),
        (LAUGHS, "aliases written out"),
        ("a: !!python/object/apply:os.system [true]", "f.yaml, line 1: not YAML"),
        ("a: &x [*x]", "alias \\*x names nothing, or what it is a part of"),
        ('a: "\\ud800"', "not YAML"),
        ("a: \x00", "not YAML"),
    ],
)
def test_what_is_wrong_with_yaml_is_said(content, says):
    begin = time.process_time()
    with pytest.raises(UserError, match=says):
        documents.yaml_value(content, "f.yaml")
    assert time.process_time() - begin < 5


def test_files_are_read_within_a_limit(tmp_path):
    (tmp_path / "a.json").write_text("12345")
    assert documents.read(tmp_path / "a.json", limit=5) == b"12345"
    with pytest.raises(UserError, match="larger than 4 bytes"):
        documents.read(tmp_path / "a.json", limit=4)
    with pytest.raises(UserError, match="b.json does not exist"):
        documents.read(tmp_path / "b.json")
    with pytest.raises(UserError, match="is a folder"):
        documents.read(tmp_path)
    with pytest.raises(UserError, match="not the name of a file"):
        documents.read("a\0b")


def test_a_wide_value_is_no_deep_one():
    assert len(documents.json_value(json.dumps([[n] for n in range(1000)]))) == 1000
