"""Rewards that only look at the text: an exact answer, a format, a length."""

import json
import re

import re2

from alpaca_jax.errors import UserError
from alpaca_jax.rewards.config import ExactConfig, FormatConfig, LengthConfig

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
BULLET = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+\S")


def exact(config: ExactConfig, answer: str, key: str) -> float:
    """1 where the answer says what `key` says, by the rules of the config, else 0."""
    if config.after:
        _, mark, answer = answer.rpartition(config.after)
        if not mark:
            return 0.0
        key = key.rpartition(config.after)[2]
    if config.number:
        said, wanted = last_number(answer), last_number(key)
        return float(said is not None and said == wanted)
    return float(" ".join(answer.split()) == " ".join(key.split()))


def last_number(text: str) -> float | None:
    """The last number in a text, `1,234.5` as one; None where there is none."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def format(config: FormatConfig, answer: str) -> float:
    """The share of the config's conditions that the answer meets, 0 to 1."""
    met = []
    if config.pattern is not None:
        met.append(compiled(config.pattern).fullmatch(answer.strip()) is not None)
    if config.bullets is not None:
        lines = [line for line in answer.splitlines() if line.strip()]
        met.append(len(lines) == config.bullets and all(BULLET.match(line) for line in lines))
    if config.json_object:
        met.append(_is_object(answer))
    return sum(met) / len(met)


def length(config: LengthConfig, answer: str) -> float:
    """1 inside the range, falling linearly to 0 over `slack` outside."""
    size = len(answer.split()) if config.unit == "words" else len(answer.strip())
    outside = max(config.least - size, size - config.most, 0)
    return max(0.0, 1.0 - outside / config.slack) if config.slack else float(not outside)


def compiled(pattern: str) -> "re2._Regexp[str]":
    """The regular expression, which takes linear time whatever the answer; a UserError where it isn't one."""
    options = re2.Options()
    options.log_errors, options.dot_nl = False, True
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise UserError(
            f"format: pattern={pattern!r} is no regular expression of RE2 ({error}); see github.com/google/re2/wiki/Syntax"
        ) from error


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
