"""Damages a file: its bytes anywhere, or the values of its JSON."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

RAW = "\0raw\0"  # marks a text that stands in the JSON without its quotes
RAWS = (
    *("1e400", "-1e400", "NaN", "-Infinity", "9" * 30, "9" * 5000, '"\\ud800"'),
    *("[" * 5000 + "]" * 5000, '{"a":' * 2000 + "1" + "}" * 2000),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 1.5, -0.0, 1e-300),
    *("", "0", "-1", "x" * 5000, "\x1b[2J", "../../etc/passwd", "\0", "{{ 'x' * 10**9 }}", "(a+)+$", "[/x] [bold]", "é\u202e"),
    *([], {}, [[]], [None], [-1, 0], {"": None}, {"a": {"b": []}}, ["x"] * 1000),
    *(f"{RAW}{text}" for text in RAWS),
)
SPLICES = (
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80" * 8, b"\n" * 1000, b"\t", b"\\ud800"),
    *(b"[" * 200, b"{" * 200, b'"', b"}", b"-", b"1e999"),
)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Returns `content` with one to three faults, of its bytes or of its JSON where it is some."""
    if chance.random() < 0.7 and (text := _json(content, chance)) is not None:
        return text
    for _ in range(chance.randint(1, 3)):
        content = chance.choice(BYTES)(content, chance)
    return content


def _json(content: bytes, chance: random.Random) -> bytes | None:
    """The JSON of a file, or of one of its lines, with faults in its values; None if it holds none."""
    try:
        value, before, after = json.loads(content), b"", b""
    except ValueError:
        lines = content.split(b"\n")
        number = chance.randrange(len(lines))
        try:
            value = json.loads(lines[number])
        except ValueError:
            return None
        before, after = (b"".join(line + b"\n" for line in lines[:number]), b"".join(b"\n" + line for line in lines[number + 1 :]))
    for _ in range(chance.randint(1, 3)):
        value = _change(value, chance)
    text = json.dumps(value)
    for raw in RAWS:
        text = text.replace(json.dumps(f"{RAW}{raw}"), raw)
    return before + text.encode() + after


def _change(value: Any, chance: random.Random) -> Any:
    """The value with one fault somewhere in it."""
    inside = isinstance(value, dict | list) and value and chance.random() < 0.85
    if not inside:
        return copy.deepcopy(chance.choice(VALUES))  # the next fault may change it
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = chance.choice(keys)
    if chance.random() < 0.15:
        del value[key]
    elif isinstance(value, dict) and chance.random() < 0.1:
        value[chance.choice(("", key + "\n", "\x1b", "x" * 300))] = value.pop(key)
    else:
        value[key] = _change(value[key], chance)
    return value


def _flip(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) or 1)
    return content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _drop(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    return content[:start] + content[start + chance.randint(1, 64) :]


def _splice(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + chance.choice(SPLICES) + content[place:]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    piece = content[start : start + chance.randint(1, 256)]
    return content[:start] + piece * chance.choice((2, 50)) + content[start:]


def _number(content: bytes, chance: random.Random) -> bytes:
    """Eight bytes become a number that a header may take for a size or an offset."""
    place = chance.randrange(len(content) + 1)
    number = chance.choice((0, 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1, 2**64 - 8))
    return content[:place] + number.to_bytes(8, "little") + content[place + 8 :]


BYTES: Sequence[Callable[[bytes, random.Random], bytes]] = (_flip, _cut, _drop, _splice, _repeat, _number)
