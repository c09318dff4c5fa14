"""The elements of a JSON array, one at a time, so that no array needs to be held in memory."""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from alpaca_jax import documents
from alpaca_jax.errors import UserError

BLOCK = 2**20
DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")


class _Text:
    """A stream of UTF-8 as text, of which only the part from `start` on is kept."""

    def __init__(self, content: BinaryIO) -> None:
        self._content, self._decoder = content, codecs.getincrementaldecoder("utf-8")()
        self.text, self.start, self.ended = "", 0, False

    def more(self, size: int = BLOCK) -> None:
        """Reads on; forgets what is before `start`."""
        block = self._content.read(size)
        self.ended = len(block) < size
        self.text, self.start = self.text[self.start :] + self._decoder.decode(block, final=self.ended), 0

    def next(self) -> str:
        """Returns the next character that is no white space, "" at the end, and moves `start` to it."""
        while True:
            self.start = SPACE.match(self.text, self.start).end()  # type: ignore[union-attr]
            if self.start < len(self.text) or self.ended:
                return self.text[self.start : self.start + 1]
            self.more()


def elements(file: Path, content: BinaryIO, longest: int) -> Iterator[Callable[[], Any]]:
    """Yields a function for each element of a JSON array, which loads it or raises a ValueError.

    A UserError where the array is cut off or no JSON, or an element longer than `longest` characters.
    """
    text, number = _Text(content), 0
    try:
        text.next()  # the bracket
        text.start += 1
        if text.next() == "]":
            text.start += 1
        else:
            while True:
                number += 1
                yield partial(_load, _element(file, text, longest))
                after = text.next()
                text.start += 1
                if after == "]":
                    break
                if after != ",":
                    raise ValueError("it is cut off" if not after else f"a comma is due, and there is {after!r}")
        rest = text.next()
    except RecursionError:
        raise UserError(f"{file}, record {number}: its JSON is nested too deep; leave that record out of the file") from None
    except ValueError as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(
            f"{file}: not a JSON array ({_plain(problem)}, in record {number}). It may be cut off: download or generate it again."
        ) from None
    if rest == "[":
        raise UserError(f'{file}: each line is a bare list. Name what it holds: {{"messages": [...]}} for each conversation')
    if rest:
        raise UserError(f"{file}: not a JSON array (something follows its end: {text.text[text.start : text.start + 20]!r})")


def _element(file: Path, text: _Text, longest: int) -> str:
    """The text of the next element; a ValueError where it is no JSON."""
    if not text.next():
        raise ValueError("it is cut off")
    if text.text[text.start] in "]}":
        raise UserError(f"{file}: not a JSON array (a comma follows its last record): take that comma away")
    while True:
        try:
            _, end = DECODER.raw_decode(text.text, text.start)
            if end < len(text.text) or text.ended:  # otherwise a number may go on
                break
        except json.JSONDecodeError as problem:
            # An error within what was read is one; at the end of it, the element goes on.
            if text.ended or not _may_go_on(text, problem):
                raise
        size = len(text.text) - text.start
        if size > longest:
            raise ValueError(f"longer than {longest:,} characters, which no record is")
        text.more(max(size, BLOCK))
    element, text.start = text.text[text.start : end], end
    return element


def _may_go_on(text: _Text, problem: json.JSONDecodeError) -> bool:
    return problem.msg.startswith("Unterminated string") or problem.pos > len(text.text) - 16


def _plain(problem: ValueError) -> str:
    if isinstance(problem, json.JSONDecodeError):
        return problem.msg
    return "not UTF-8" if isinstance(problem, UnicodeDecodeError) else str(problem)


def _load(element: str) -> Any:
    return documents.json_value(element.encode())
