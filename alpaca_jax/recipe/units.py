"""Figures formatted for people."""

from collections.abc import Callable, Mapping
from typing import Any


def duration(seconds: float) -> str:
    """Returns 8.3 s, 4 min 20 s or 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: float) -> str:
    """Returns a whole number with thousands separators."""
    return f"{number:,.0f}"


def gigabytes(size: float) -> str:
    """Returns bytes as GB (1e9)."""
    return f"{size / 1e9:.2f} GB"


def flat(mapping: Mapping[str, Any]) -> str:
    """Returns a small mapping as one line, without unset values."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in mapping.items() if value not in (None, "", [], {}))


def or_none(value: Any, text: Callable[[Any], str]) -> str | None:
    """Returns `text(value)`, or None if there is no value."""
    return None if value is None else text(value)
