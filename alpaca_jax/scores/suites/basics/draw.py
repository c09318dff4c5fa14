"""Random choices that are the same for one seed on every version of Python, so that a suite can be generated and not stored."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A stream of choices named by a text. It uses `random.Random.random` alone, the one method whose numbers Python promises to keep."""

    def __init__(self, name: str) -> None:
        self._random = random.Random(name)

    def number(self, least: int, most: int) -> int:
        """Returns a whole number from `least` to `most`, both included."""
        return least + int(self._random.random() * (most - least + 1))

    def one(self, values: Sequence[T]) -> T:
        """Returns one of the values."""
        return values[self.number(0, len(values) - 1)]

    def some(self, values: Sequence[T], count: int) -> list[T]:
        """Returns `count` different ones of the values, in random order."""
        left = list(values)
        return [left.pop(self.number(0, len(left) - 1)) for _ in range(count)]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """Returns all values in random order."""
        return self.some(values, len(values))
