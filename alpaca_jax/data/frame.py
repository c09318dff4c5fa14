"""What a template writes around the texts of a record, found by rendering marks in their place."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# A mark holds what escaping would change, and stands between white space that no template writes, which shows where one trims.
SIGN, SPACE = "\ue0f1", "\u2003"
MARKED = re.compile(rf"""({SPACE}?){SIGN}<'"\\&AaB\n(\d+)>{SIGN}({SPACE}?)""")


class Slot(NamedTuple):
    """The place of a text, and on which side its outer white space stays."""

    number: int
    left: bool
    right: bool


Parts = list[str | Slot]


class Frame(NamedTuple):
    """What stands around the texts of a record: of each piece, its parts and whether it is learnt; and the texts that lose white space."""

    pieces: list[tuple[Parts, bool]]
    trimmed: frozenset[int]

    @classmethod
    def of(cls, pieces: Sequence[tuple[str, bool]]) -> "Frame":
        """Returns the frame of rendered pieces, with marks in them."""
        split = [(parts(text), learnt) for text, learnt in pieces]
        frame = cls(split, frozenset())
        return cls(split, frozenset(slot.number for slot in frame.slots() if not (slot.left and slot.right)))

    def slots(self) -> list[Slot]:
        """Returns the places of all texts, in order."""
        return [part for around, _ in self.pieces for part in around if isinstance(part, Slot)]


def mark(number: int, space: str = "") -> str:
    """Returns what stands for text `number`, between `space`."""
    return f"""{space}{SIGN}<'"\\&AaB\n{number}>{SIGN}{space}"""


def parts(text: str) -> Parts:
    """Returns what is written in `text` around its marks, and a slot for each of them."""
    found = MARKED.split(text)
    made: Parts = [found[0]]
    for place in range(1, len(found), 4):
        left, number, right, after = found[place : place + 4]
        made += [Slot(int(number), bool(left), bool(right)), after]
    return made


def fill(parts: Parts, texts: Sequence[str]) -> str:
    """Returns `parts` with its text in each slot."""
    return "".join([_trimmed(part, texts[part.number]) if isinstance(part, Slot) else part for part in parts])


def _trimmed(slot: Slot, text: str) -> str:
    text = text if slot.left else text.lstrip()
    return text if slot.right else text.rstrip()


class Traced(str):
    """A text that notes in `looks` what is done with it, but for writing, joining and trimming it."""

    looks: list[str]

    def __new__(cls, text: str, looks: list[str]) -> "Traced":
        made = super().__new__(cls, text)
        made.looks = looks
        return made

    def __add__(self, other: str) -> "Traced":
        return Traced(str.__add__(self, other), self.looks)

    def __radd__(self, other: str) -> "Traced":
        return Traced(str.__add__(other, self), self.looks)

    def strip(self, chars: str | None = None) -> "Traced":
        return Traced(str.strip(self, self._all(chars)), self.looks)

    def lstrip(self, chars: str | None = None) -> "Traced":
        return Traced(str.lstrip(self, self._all(chars)), self.looks)

    def rstrip(self, chars: str | None = None) -> "Traced":
        return Traced(str.rstrip(self, self._all(chars)), self.looks)

    def _all(self, chars: str | None) -> str | None:
        if chars is not None:  # `SPACE` may not be among them
            self.looks.append("strip")
        return chars


def _noted(name: str) -> Callable[..., Any]:
    method = getattr(str, name)

    def noted(self: Traced, *args: Any, **kwargs: Any) -> Any:
        self.looks.append(name)
        return method(self, *args, **kwargs)

    return noted


_QUIET = (*vars(Traced), "__getattribute__", "__str__", "__init_subclass__", "__subclasshook__")
for _name in dir(str):
    if getattr(str, _name) is not getattr(object, _name, None) and _name not in _QUIET:
        setattr(Traced, _name, _noted(_name))
