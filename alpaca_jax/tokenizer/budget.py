"""What a chat template of somebody else may spend while it renders: steps, characters and processor time.

A sandbox keeps a template from the machine, but not from asking for `'x' * 10**9`. So the size of a result is estimated before it is
made, and each step and each character is counted while a chat is rendered.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NODE = 64  # what an element of a list or a dict weighs, in characters
STEPS = 200_000  # calls, operations and rounds of loops, in a chat of no characters
CHARACTERS = 20_000_000  # made in all, kept or not
LARGEST = 2_000_000  # characters of one value
SECONDS = 1.0  # of processor time
BITS = 10_000  # of a whole number

WIDE = frozenset("center ljust rjust zfill batch slice round to_bytes".split())  # their numbers are sizes
BACKWARDS = frozenset("rfind rindex rsplit rpartition".split())  # take quadratic time
SLOW = {"striptags": 20_000, "unescape": 20_000, "urlize": 2_000, "pprint": 20_000, "wordwrap": 500_000}  # by the longest text they take
FORMATS = frozenset(("format", "format_map"))


class Overspent(Exception):
    """The template wants more than a chat needs."""


class Budget:
    """What is left while one chat of so many characters is rendered."""

    def __init__(self, characters: int) -> None:
        self.largest = LARGEST + 8 * characters
        self._steps = STEPS + 4 * characters
        self._characters = CHARACTERS + 50 * characters
        self._until = time.thread_time() + SECONDS + characters / 200_000

    def step(self, count: int = 1) -> None:
        """Counts `count` steps; raises Overspent where none are left."""
        self._steps -= count
        if self._steps < 0:
            raise Overspent("it takes too many steps")
        if time.thread_time() > self._until:
            raise Overspent("it takes too long")

    def allow(self, size: int) -> None:
        """Raises Overspent where a value of `size` characters is too large to be made."""
        if size > self.largest:
            raise Overspent(f"a value of more than {self.largest:,} characters")

    def made(self, value: Any) -> Any:
        """Counts a step and what it made, and returns that; the items of an iterator are counted as they come."""
        self.step()
        if isinstance(value, Iterator):
            return self.counted(value)
        size = self.weigh(value)
        self._characters -= size
        if self._characters < 0:
            raise Overspent("it makes too many characters")
        return value

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yields `items` and counts each."""
        for item in items:
            self.step()
            yield item

    def weigh(self, *values: Any) -> int:
        """Returns the size of `values` with all that they hold, each as often as it would be written; Overspent where it is too large."""
        size, left = 0, list(values)
        while left:
            value = left.pop()
            if isinstance(value, str | bytes):
                size += len(value)
            elif isinstance(value, list | tuple | set | frozenset | Mapping):
                size += NODE * len(value)
                self.allow(size)
                left += value
                left += value.values() if isinstance(value, Mapping) else ()
            elif isinstance(value, int) and value.bit_length() > BITS:
                raise Overspent("a number of thousands of digits")
            self.allow(size)
        return size

    def check_call(self, name: str, subject: Any, args: Iterable[Any], options: Mapping[str, Any]) -> None:
        """Raises Overspent where a method or filter called `name` would make something too large of `subject`."""
        args = [*args, *options.values()]
        text: Any = subject if isinstance(subject, str | bytes) else ""
        numbers = [abs(arg) for arg in args if isinstance(arg, int)]
        if name in WIDE:
            self.allow(max(numbers, default=0) * (1 if name in ("center", "ljust", "rjust", "zfill") else NODE))
        elif name in ("indent", "expandtabs"):
            width = max([4, *numbers, *(len(arg) for arg in args if isinstance(arg, str))])
            self.allow(width * (2 + len(text.splitlines()) + str(text).count("\t")))
        elif name == "replace" and len(args) >= 2 and all(isinstance(arg, type(text)) for arg in args[:2]):
            self.allow(len(text) + len(args[1]) * text.count(args[0]))
        elif name == "tojson":
            indent = max([0, *numbers, *(len(arg) for arg in args if isinstance(arg, str))])
            self.allow(self.weigh(subject) + indent * (1 + self.weigh(subject) // NODE) * _depth(subject))
        elif name in FORMATS:
            self.check_format(text, "{", args)
        elif name in BACKWARDS:
            self.allow(len(text) * max([0, *(len(arg) for arg in args if isinstance(arg, str | bytes))]) // 100)
        elif name == "translate":
            self.allow(len(text) * (1 + max([0, *(self.weigh(arg) for arg in args)])))
        if len(text) > SLOW.get(name, len(text)) or (name == "wordwrap" and len(text) * (1 + self.weigh(*args)) > self.largest):
            raise Overspent(f"{name} of a long text")

    def check_format(self, text: Any, mark: str, args: Any) -> None:
        """Raises Overspent where formatting `text`, in which `mark` begins each field, makes too much."""
        text = text.decode("latin-1") if isinstance(text, bytes) else str(text)
        if re.search(r"%[^%a-zA-Z]*\*" if mark == "%" else r"\{[^{}]*\{", text.replace("{{", "")):
            raise Overspent("the width of a format is given elsewhere")
        widths = sum(int(digits) if len(digits) < 10 else self.largest for digits in re.findall(r"\d+", text))
        self.allow(len(text) + widths + text.count(mark) * 10 * (NODE + self.weigh(args)))

    def check_join(self, separator: Any, items: list[Any]) -> None:
        """Raises Overspent where the joined items are too large."""
        self.step(len(items) // 100)
        self.allow(len(str(separator)) * len(items) + self.weigh(items))

    def check_operator(self, operator: str, left: Any, right: Any) -> None:
        """Raises Overspent where `left operator right` would be too large, or take too long."""
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(value, str | bytes | list | tuple):
                    self.allow(max(times, 0) * (len(value) if isinstance(value, str | bytes) else self.weigh(value) + NODE))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > BITS:
            raise Overspent("a number of thousands of digits")
        elif operator == "%" and isinstance(left, str | bytes):
            self.check_format(left, "%", right)


def _depth(value: Any, above: int = 1) -> int:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return max([above, *(_depth(each, above + 1) for each in inner if isinstance(each, list | tuple | Mapping))])
