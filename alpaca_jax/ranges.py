"""What a number of a configuration may be. A field is annotated with one of these types; `configclass` checks it, whoever makes the config.

Every number has a range: NaN, the infinities, and what no integer of 64 bits holds are in none of them.
"""

import dataclasses
import functools
import typing
from collections.abc import Iterator
from typing import Annotated, Any


class OutOfRange(ValueError):
    """A number that its field can't take; the message is what to give instead."""


@dataclasses.dataclass(frozen=True)
class Range:
    """From `least` to `most`, each included unless it is open, or the one number `also`."""

    least: float
    most: float
    open_below: bool = False
    open_above: bool = False
    also: float | None = None
    give: str = ""  # in words; "": from the numbers

    def __contains__(self, value: Any) -> bool:
        above = self.least < value if self.open_below else self.least <= value
        below = value < self.most if self.open_above else value <= self.most
        return bool(above and below) or (self.also is not None and value == self.also)

    def check(self, value: Any) -> Any:
        """Returns `value`; OutOfRange if it lies outside."""
        if value in self:
            return value
        raise OutOfRange(f"give {self.remedy(value)}")

    def remedy(self, value: Any) -> str:
        """What to give instead of `value`."""
        wanted = self.give or (f"more than {self.least}" if self.open_below else f"{self.least} or more")
        return f"{self.most} at most" if value > self.most and self.most >= _LARGE else wanted

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """How pydantic checks a field with this annotation: no truth value, then the number itself, then its range."""
        from pydantic_core import core_schema

        return core_schema.chain_schema(
            [
                core_schema.no_info_plain_validator_function(_no_truth),
                handler(source),
                core_schema.no_info_plain_validator_function(self.check),
            ]
        )


AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class OrAuto:
    """An annotation of a number for which `auto` may stand: it is chosen when a run starts, before anything is computed with it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """How pydantic checks such a field: the word itself, or the number."""
        from pydantic_core import core_schema

        return core_schema.no_info_wrap_validator_function(lambda value, number: value if value == AUTO else number(value), handler(source))


def check(config: Any) -> None:
    """Raises a ValueError that names the first number of a configuration (not of one inside it) outside its range."""
    for name, hint in _numbers(config.__class__):
        for value, span in _found(getattr(config, name), hint):
            if value not in span:
                raise ValueError(f"{name}={value}: give {span.remedy(value)}")


def _no_truth(value: Any) -> Any:
    # false would become 0: clip=false means "no clipping", and clip=0 no update.
    if isinstance(value, bool):
        raise OutOfRange("give a number, not true or false; null, where it is allowed, switches a setting off")
    return value


@functools.cache
def _numbers(cls: Any) -> list[tuple[str, Any]]:
    """The fields of a dataclass that hold numbers with a range, and their annotations."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [(field.name, hints[field.name]) for field in dataclasses.fields(cls) if span_of(hints[field.name]) is not None]


def span_of(hint: Any) -> Range | None:
    """The range inside an annotation such as `Positive | None` or `tuple[Share, ...]`, the first if there are several."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Range):
            return extra
    return next((span for span in map(span_of, typing.get_args(hint)) if span is not None), None)


def _found(value: Any, hint: Any) -> Iterator[tuple[float, Range]]:
    span = span_of(hint)
    assert span is not None
    values = value if isinstance(value, tuple | list) else value.values() if isinstance(value, dict) else [value]
    yield from ((one, span) for one in values if isinstance(one, int | float) and not isinstance(one, bool))


_LARGE = 1e4  # a limit above which nobody comes by intent: it is told only to those who do
INT32, INT64 = 2**31 - 1, 2**63 - 1
BIG = 1e30  # float32 can still be multiplied with it

Seed = Annotated[int, Range(0, INT64)]
Natural = Annotated[int, Range(0, INT32)]
Positive = Annotated[int, Range(1, INT32)]
AtLeastTwo = Annotated[int, Range(2, INT32)]
Length = Annotated[int, Range(1, 2**24)]  # tokens of a row
Axis = Annotated[int, Range(1, INT32, also=-1, give="1 or more, or -1")]
Port = Annotated[int, Range(0, 65535, give="1 to 65535, or 0 for any free one")]
Nonnegative = Annotated[float, Range(0, BIG)]
Above0 = Annotated[float, Range(0, BIG, open_below=True)]
Above1 = Annotated[float, Range(1, BIG, open_below=True)]
AtLeast1 = Annotated[float, Range(1, BIG)]
Share = Annotated[float, Range(0, 1, give="0 to 1")]
Fraction = Annotated[float, Range(0, 1, open_above=True, give="0 or more and less than 1")]  # a share of the steps, the decay of a momentum
Inside = Annotated[float, Range(0, 1, open_below=True, open_above=True, give="more than 0 and less than 1")]
Nucleus = Annotated[float, Range(0, 1, open_below=True, give="more than 0 and at most 1")]
Duration = Annotated[float, Range(0, 1e7, open_below=True)]  # seconds or minutes
Pause = Annotated[float, Range(0, 1e7)]  # the same; 0: none
