"""JSON and YAML that somebody else may have written: read whole, within bounds on size and depth, or refused in plain words."""

import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpaca_jax.errors import UserError

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 100
MAX_NODES = 1_000_000  # of YAML, once its aliases are written out
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number", type(None): "null"}


def read(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Returns the bytes of a file; a UserError if it is missing, no file, unreadable, or larger than `limit` bytes."""
    path = Path(path) if isinstance(path, str) else path
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        reason = {errno.ENOENT: "does not exist", errno.EISDIR: "is a folder, where a file is due"}.get(error.errno or 0)
        raise UserError(f"{path} {reason or f'cannot be read ({error.strerror or error})'}") from error
    except ValueError as error:  # a null byte in the name
        raise UserError(f"{str(path)!r} is not the name of a file ({error})") from error
    if len(content) > limit:
        raise UserError(f"{path} is larger than {limit:,} bytes, more than any file of its kind has; it is not what its name says")
    return content


def json_value(content: bytes | str) -> Any:
    """Returns the value of a JSON text (UTF-8, with or without a byte order mark).

    A ValueError says in plain words, and with the line, what is wrong: no JSON, no UTF-8, nested more than MAX_DEPTH deep, a number of
    thousands of digits, or half of a surrogate pair, which is no character.
    """
    text = content if isinstance(content, str) else _decoded(content)
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not JSON ({error.msg})" if error.lineno > 1 else f"not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(_too_deep("JSON")) from None
    except ValueError:
        raise ValueError("a number in it has thousands of digits") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and any(
        depth >= MAX_DEPTH and isinstance(inner, dict | list) for depth, inner in _walk(value)
    ):
        raise ValueError(_too_deep("JSON"))
    if ESCAPED_SURROGATE.search(text) or isinstance(content, str):
        _check_characters(value)
    return value


def json_object(content: bytes | str, where: str) -> dict[str, Any]:
    """Returns the object of a JSON text; a UserError that begins with `where` if it is anything else, or broken."""
    try:
        value = json_value(content)
    except ValueError as error:
        raise UserError(f"{where}{', ' if str(error).startswith('line') else ': '}{error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: an object is due here, and it holds {KINDS[type(value)]}")
    return value


def yaml_value(content: bytes | str, where: str) -> Any:
    """Returns the value of a YAML text with plain types only; a UserError that begins with `where` and names the line if it is broken.

    Bounded are its depth (MAX_DEPTH) and its size with every alias written out (MAX_NODES), which a few lines can make astronomical.
    """
    import yaml

    try:
        text = content if isinstance(content, str) else _decoded(content)
        _check_size(yaml.parse(text, Loader=yaml.CSafeLoader))
        value = yaml.load(text, Loader=yaml.CSafeLoader)
        _check_characters(value)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        hint = "; YAML is indented by spaces, not by tabs" if re.match(r" *\t", "".join(text.split("\n")[line : line + 1])) else ""
        raise UserError(f"{where}, line {line + 1}: not YAML ({' '.join(str(error.problem).split())}{hint})") from None
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:  # the last three: an odd tag
        raise UserError(f"{where}: not YAML ({' '.join(str(error).split())})") from None
    return value


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: not UTF-8 (byte {content[error.start]:#04x})") from None


def _too_deep(what: str) -> str:
    return f"its {what} is nested more than {MAX_DEPTH} deep"


def _walk(value: Any) -> Iterator[tuple[int, Any]]:
    """(depth, value) of a value and of all keys and values in it, without recursion."""
    waiting = [(0, value)]
    while waiting:
        depth, value = waiting.pop()
        yield depth, value
        if isinstance(value, dict):
            waiting += [(depth + 1, inner) for pair in value.items() for inner in pair]
        elif isinstance(value, list):
            waiting += [(depth + 1, inner) for inner in value]


def _check_characters(value: Any) -> None:
    for _, text in _walk(value):
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                number = ord(text[error.start])
                raise ValueError(f"a text in it has half of a surrogate pair (\\u{number:04x}), which is no character") from None


def _check_size(events: Any) -> None:
    """A ValueError for YAML that is too deep, or too large once its aliases are written out; reads the events, builds nothing."""
    import yaml

    sizes: dict[str, int] = {}  # of what an anchor names
    counts: list[int] = [0]  # of the open collections, outermost first
    anchors: list[str | None] = [None]  # of the same collections, outermost first
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} names nothing, or what it is a part of")
            counts[-1] += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = counts.pop(), anchors.pop()
            counts[-1] += size
            if anchor:
                sizes[anchor] = size
        if len(counts) > MAX_DEPTH:
            raise ValueError(_too_deep("YAML"))
        if counts[-1] > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES:,} values with its aliases written out")
