"""What rank 0 makes of what all have said: what forbids the start, and what is only worth a line."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alpaca_jax.distributed.facts import Facts

SKEW_WARNED, SKEW_REFUSED = 5.0, 60.0  # seconds; beyond a minute, "the first traceback" and file times mislead, and tokens expire early
MOST_KEYS = 20


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`mistakes` are for the user to mend, `lost` may come by itself at the next start, `warnings` forbid nothing."""

    mistakes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def refuses(self) -> bool:
        """Whether the job may not start."""
        return bool(self.mistakes or self.lost)

    def text(self) -> str:
        """Returns all that forbids the start, a line each."""
        found = [*self.mistakes, *self.lost]
        return found[0] if len(found) == 1 else "\n  ".join([f"the job can't start, for {len(found)} reasons:", *found])


def judge(come: Mapping[int, Facts], seen: Mapping[int, bool | None], folder: str) -> Verdict:
    """Returns what is wrong among processes that have all come; `seen` says which of them found rank 0's file in the run's folder."""
    mistakes = [f"rank {rank} on {facts['host']}: {line}" for rank, facts in sorted(come.items()) for line in facts["stale"]]
    other_commits, other_changes = _code(come)
    mistakes += _versions(come) + other_commits + _settings(come)
    if blind := [rank for rank, found in seen.items() if found is False]:
        mistakes.append(
            f"dir={folder}: is not one folder for all: what rank 0 on {come[0]['host']} writes there is not seen by {named(blind, come)}; "
            "give a dir on a disk that all hosts share, or gs://"
        )
    refused, warnings = _clocks(come)
    return Verdict(tuple(mistakes + refused), (), tuple(other_changes + warnings))


def missing(size: int, come: Mapping[int, Facts], hosts: Sequence[str], minutes: float, coordinator: str) -> str:
    """Returns the line about ranks that did not come in time."""
    absent = [rank for rank in range(size) if rank not in come]
    expected = f" (expected on {_shortened([hosts[rank] for rank in absent])})" if hosts else ""
    return (
        f"{ranks(absent)} of {size} did not come within {minutes:g} minutes{expected}; here are {named(come, come)}. Look at the logs of "
        f"those that are absent, and whether their hosts reach {coordinator}; distributed.join_minutes waits longer"
    )


def ranks(numbers: Iterable[int]) -> str:
    """Returns a short form of a list of ranks, such as "ranks 0-3, 7"."""
    numbers = sorted(numbers)
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return f"rank{'' if len(numbers) == 1 else 's'} " + ", ".join("-".join(map(str, part)) for part in parts)


def named(numbers: Iterable[int], come: Mapping[int, Facts]) -> str:
    """Returns ranks with their hosts, such as "ranks 2-3 (n1, n2)"."""
    numbers = sorted(numbers)
    return f"{ranks(numbers)} ({_shortened(list(dict.fromkeys(come[rank]['host'] for rank in numbers)))})"


def _shortened(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _split(values: Mapping[int, Any]) -> dict[Any, list[int]]:
    """The ranks that have each value; the value of most of them first."""
    found: dict[Any, list[int]] = defaultdict(list)
    for rank, value in sorted(values.items()):
        found[value].append(rank)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _who_has_what(values: Mapping[int, Any], come: Mapping[int, Facts]) -> str | None:
    split = _split(values)
    return None if len(split) < 2 else ", ".join(f"{value} on {named(numbers, come)}" for value, numbers in split.items())


def _versions(come: Mapping[int, Facts]) -> list[str]:
    found = []
    for package in come[0]["versions"]:
        if said := _who_has_what({rank: facts["versions"].get(package, "absent") for rank, facts in come.items()}, come):
            found.append(f"{package}: {said}; install the same version everywhere")
    return found


def _code(come: Mapping[int, Facts]) -> tuple[list[str], list[str]]:
    """What is refused, another commit, and what is warned of, other changes: someone may edit a shared checkout in this second."""
    codes = {rank: facts["code"] or "no git" for rank, facts in come.items()}
    if said := _who_has_what({rank: code.partition("+")[0] for rank, code in codes.items()}, come):
        return [f"the commit of alpaca_jax: {said}; check out the same everywhere"], []
    said = _who_has_what(codes, come)
    return [], [f"the uncommitted changes of alpaca_jax differ: {said} (commit+digest of the changes)"] if said else []


def _settings(come: Mapping[int, Facts]) -> list[str]:
    if len({facts["digest"] for facts in come.values()}) < 2:
        return []
    keys = list(dict.fromkeys(key for facts in come.values() for key in facts["config"]))
    found = []
    for key in keys:
        if said := _who_has_what({rank: facts["config"].get(key, "absent") for rank, facts in come.items()}, come):
            found.append(f"{key}: {said}; give every process the same")
    return found if len(found) <= MOST_KEYS else [*found[:MOST_KEYS], f"and {len(found) - MOST_KEYS} more keys differ"]


def _clocks(come: Mapping[int, Facts]) -> tuple[list[str], list[str]]:
    """What is refused and what is warned of, by each rank's seconds ahead of rank 0."""
    refused, warnings = [], []
    for rank, facts in sorted(come.items()):
        ahead = facts.get("ahead", 0.0)
        if abs(ahead) > SKEW_WARNED:
            way = "ahead of" if ahead > 0 else "behind"
            line = f"the clock of {facts['host']} (rank {rank}) is {abs(ahead):.0f} s {way} that of rank 0 on {come[0]['host']}"
            (refused if abs(ahead) > SKEW_REFUSED else warnings).append(f"{line}; set the clocks by NTP")
    return refused, warnings
