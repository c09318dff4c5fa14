"""Regular expressions of an adapter's config, matched by RE2: in time linear in the text, whatever the pattern is.

Python's own engine, which PEFT uses, takes minutes or for ever for some patterns of ten characters, and the config comes with a download.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import re2

from alpaca_jax.errors import UserError

LONGEST = 2_000  # characters of a pattern


@functools.lru_cache(maxsize=1 << 13)
def compiled(pattern: str) -> Any:
    """Returns the compiled pattern; a ValueError where it is too long, or RE2 doesn't know it: it has no look-around and no references."""
    if len(pattern) > LONGEST:
        raise ValueError(f"a pattern of {len(pattern):,} characters, more than {LONGEST:,}")
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(
            f"the pattern {pattern[:80]!r} can't be matched in linear time ({reason}): write it without what it names"
        ) from error


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches the whole text."""
    return compiled(pattern).fullmatch(text) is not None


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """A context in which a pattern's ValueError becomes a UserError that begins with `where`."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
