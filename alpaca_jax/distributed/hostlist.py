"""Slurm's short notation for a list of nodes, and for the number of tasks on each."""

import re

from alpaca_jax.errors import UserError

_PART = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")  # up to a comma outside of brackets
_BRACKET = re.compile(r"\[([^\]]*)\]")


def nodes(text: str, variable: str = "SLURM_STEP_NODELIST") -> list[str]:
    """Returns the names in a list such as "gpu[01-03,7],login": gpu01 gpu02 gpu03 gpu7 login. UserError names the variable."""
    names = [name for part in _PART.findall(text) for name in _expand(part.strip(), text, variable)]
    if not names or text.count("[") != text.count("]") or any(sign in name for name in names for sign in "[]"):
        raise UserError(f"{variable}={text!r} is not a list of nodes in Slurm's notation, such as gpu[01-03,7],login")
    return names


def tasks(text: str, variable: str = "SLURM_STEP_TASKS_PER_NODE") -> list[int]:
    """Returns the numbers in a list such as "2(x3),1": 2 2 2 1. UserError names the variable."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\(x(\d+)\))?\s*", part)
        if match is None:
            raise UserError(f"{variable}={text!r} is not a list of numbers in Slurm's notation, such as 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _expand(part: str, text: str, variable: str) -> list[str]:
    """The names that one part stands for; it may have several brackets."""
    match = _BRACKET.search(part)
    if match is None:
        return [part] if part else []
    before, after = part[: match.start()], part[match.end() :]
    return [before + number + rest for number in _numbers(match[1], text, variable) for rest in _expand(after, text, variable) or [""]]


def _numbers(ranges: str, text: str, variable: str) -> list[str]:
    numbers = []
    for each in ranges.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", each)
        if match is None:
            raise UserError(f"{variable}={text!r}: {each!r} is neither a number nor a range such as 001-015")
        first, last = match[1], match[2] or match[1]
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers
