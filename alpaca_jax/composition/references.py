"""`${key}` in settings: which references are understood, and how long the texts become that they make.

OmegaConf calls a function for `${name:...}`, writes out a text again wherever another refers to it, and recurses. So all but whole keys,
variables without a secret and the time are refused, and the length is known before anything is written out.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from alpaca_jax.errors import UserError
from alpaca_jax.masking import masked

LONGEST = 200_000  # characters of all texts with references together
DEEPEST = 20  # references through references
REFERENCE = re.compile(r"(?P<escape>\\*)\$\{(?P<inside>[^{}]*)\}?")
KEY = re.compile(r"\w[\w-]*(\.[\w-]+|\[\w+\])*")
VARIABLE, TIME = re.compile(r"oc\.env:(\w+)(,.*)?"), re.compile(r"now:.*")
REMEDY = "give a whole key such as ${dir}, ${oc.env:VARIABLE} or ${now:%Y-%m-%d}; a backslash before ${ makes it plain text"


def resolved(config: Any) -> dict[str, Any]:
    """Returns a composed config as a plain mapping with its references written out; a UserError names the key that can't be."""
    whole = OmegaConf.to_container(config, resolve=False)
    assert isinstance(whole, dict)
    check(whole)
    try:
        mapping = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}: is needed and has no default; give {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(mapping, dict)
    return {str(key): value for key, value in mapping.items()}


def check(whole: Mapping[Any, Any]) -> None:
    """Raises a UserError at a reference in these settings that isn't understood, or where they become too long."""
    _Lengths(whole).measure(whole, "")


class _Lengths:
    """How long the settings are once their references are written out; each is measured once, by its key."""

    def __init__(self, whole: Mapping[Any, Any]) -> None:
        self.whole = whole
        self.known: dict[str, tuple[int, int] | None] = {}  # length and references one behind another; None: being measured
        self.written = self.open = 0  # characters; references that are being followed

    def measure(self, value: Any, key: str) -> tuple[int, int]:
        """The length of the value at a key, and how many references lie behind one another in it."""
        if key in self.known:
            if (known := self.known[key]) is None:
                raise UserError(f"{key}: refers to itself")
            return known
        self.known[key] = None
        if isinstance(value, Mapping | list):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            parts = [self.measure(inner, f"{key}.{name}" if key else str(name)) for name, inner in items]
            length, depth = len(parts) + sum(part for part, _ in parts), max((depth for _, depth in parts), default=0)
        elif isinstance(value, str) and "${" in value:
            parts = [self._referred(match, key) for match in REFERENCE.finditer(value)]
            length, depth = len(value) + sum(part for part, _ in parts), 1 + max(depth for _, depth in parts)
            self.written += length
            self._check(key, depth)
        else:
            length, depth = len(value) if isinstance(value, str) else 1, 0
        self.known[key] = length, depth
        return length, depth

    def _referred(self, match: re.Match[str], key: str) -> tuple[int, int]:
        inside = match["inside"].strip()
        if len(match["escape"]) % 2:
            return 0, 0
        if variable := VARIABLE.fullmatch(inside):
            text = os.environ.get(variable[1], "")
            if masked(text) != text:
                raise UserError(f"{key}: {variable[1]} holds a secret, which no setting may contain; settings name the variable instead")
            return len(text), 0
        if TIME.fullmatch(inside):
            return 10 * len(inside), 0
        if not match[0].endswith("}") or not KEY.fullmatch(inside):
            raise UserError(f"{key}: {masked(match[0])[:80]} is not understood: {REMEDY}")
        self.open += 1
        self._check(key, self.open)
        found = self.measure(self._at(inside), inside)
        self.open -= 1
        return found

    def _check(self, key: str, depth: int) -> None:
        if self.written > LONGEST or depth > DEEPEST:
            raise UserError(f"{key}: references make more than {LONGEST:,} characters of it, or lead through more than {DEEPEST} others")

    def _at(self, path: str) -> Any:
        value: Any = self.whole
        for part in re.split(r"[.\[\]]+", path.rstrip("]")):
            if isinstance(value, Mapping):
                value = value.get(part)
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                return None  # OmegaConf says so
        return value
