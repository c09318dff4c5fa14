"""What the lead concludes from the facts of all processes: what forbids the start, and what is only worth a warning."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alpaca_jax.distributed.facts import Facts

SKEW_WARNED, SKEW_REFUSED = 5.0, 60.0  # seconds; beyond a minute "the first traceback" and file times mislead, and tokens expire early
MOST_KEYS = 20


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`mistakes` are for the user to correct, `lost` may be gone at the next start, `warnings` don't forbid the start."""

    mistakes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def refuses(self) -> bool:
        """Whether the job may not start."""
        return bool(self.mistakes or self.lost)

    def text(self) -> str:
        """Returns everything that forbids the start, one line each."""
        reasons = [*self.mistakes, *self.lost]
        return reasons[0] if len(reasons) == 1 else "\n  ".join([f"the job can't start, for {len(reasons)} reasons:", *reasons])


def judge(present: Mapping[int, Facts], seen: Mapping[int, bool | None], folder: str) -> Verdict:
    """Returns what is wrong among the processes present; `seen` says which of them see the lead's file in the run's folder."""
    mistakes = [f"rank {rank} on {facts['host']}: {line}" for rank, facts in sorted(present.items()) for line in facts["stale"]]
    other_commits, other_changes = _code(present)
    mistakes += _versions(present) + other_commits + _settings(present)
    if blind := [rank for rank, sees in seen.items() if sees is False]:
        mistakes.append(
            f"dir={folder} is not shared: what the lead (rank 0) on {present[0]['host']} writes there is not seen by "
            f"{named(blind, present)}; give a dir on a disk that all hosts share, or gs://"
        )
    refused, warnings = _clocks(present)
    return Verdict(tuple(mistakes + refused), (), tuple(other_changes + warnings))


def missing(size: int, present: Mapping[int, Facts], hosts: Sequence[str], minutes: float, coordinator: str) -> str:
    """Returns the message about ranks that did not arrive in time."""
    absent = [rank for rank in range(size) if rank not in present]
    expected = f" (expected on {_shortened([hosts[rank] for rank in absent])})" if hosts else ""
    return (
        f"{ranks(absent)} of {size} did not arrive within {minutes:g} minutes{expected}; present: {named(present, present)}. Check the "
        f"logs of the absent ones, and whether their hosts reach {coordinator}; distributed.join_minutes sets how long to wait"
    )


def ranks(numbers: Iterable[int]) -> str:
    """Returns a list of ranks in short, such as "ranks 0-3, 7"."""
    numbers = sorted(numbers)
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return f"rank{'' if len(numbers) == 1 else 's'} " + ", ".join("-".join(map(str, part)) for part in parts)


def named(numbers: Iterable[int], present: Mapping[int, Facts]) -> str:
    """Returns ranks with their hosts, such as "ranks 2-3 (n1, n2)"."""
    numbers = sorted(numbers)
    return f"{ranks(numbers)} ({_shortened(list(dict.fromkeys(present[rank]['host'] for rank in numbers)))})"


def _shortened(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _split(values: Mapping[int, Any]) -> dict[Any, list[int]]:
    """The ranks that have each value, the most common value first."""
    ranks_of: dict[Any, list[int]] = defaultdict(list)
    for rank, value in sorted(values.items()):
        ranks_of[value].append(rank)
    return dict(sorted(ranks_of.items(), key=lambda item: -len(item[1])))


def _difference(values: Mapping[int, Any], present: Mapping[int, Facts]) -> str | None:
    """Who has which value; None if all have the same."""
    split = _split(values)
    return None if len(split) < 2 else ", ".join(f"{value} on {named(numbers, present)}" for value, numbers in split.items())


def _versions(present: Mapping[int, Facts]) -> list[str]:
    lines = []
    for package in present[0]["versions"]:
        if difference := _difference({rank: facts["versions"].get(package, "absent") for rank, facts in present.items()}, present):
            lines.append(f"{package}: {difference}; install the same version everywhere")
    return lines


def _code(present: Mapping[int, Facts]) -> tuple[list[str], list[str]]:
    """Mistakes (another commit) and warnings (other uncommitted changes: somebody may be editing a shared checkout right now)."""
    codes = {rank: facts["code"] or "no git" for rank, facts in present.items()}
    if difference := _difference({rank: code.partition("+")[0] for rank, code in codes.items()}, present):
        return [f"the commit of alpaca_jax: {difference}; check out the same everywhere"], []
    difference = _difference(codes, present)
    return [], [f"the uncommitted changes of alpaca_jax differ: {difference} (commit+digest of the changes)"] if difference else []


def _settings(present: Mapping[int, Facts]) -> list[str]:
    if len({facts["digest"] for facts in present.values()}) < 2:
        return []
    keys = list(dict.fromkeys(key for facts in present.values() for key in facts["config"]))
    lines = []
    for key in keys:
        if difference := _difference({rank: facts["config"].get(key, "absent") for rank, facts in present.items()}, present):
            lines.append(f"{key}: {difference}; give every process the same value")
    return lines if len(lines) <= MOST_KEYS else [*lines[:MOST_KEYS], f"and {len(lines) - MOST_KEYS} more keys differ"]


def _clocks(present: Mapping[int, Facts]) -> tuple[list[str], list[str]]:
    """Mistakes and warnings about the clocks, by each rank's seconds ahead of the lead."""
    refused: list[str] = []
    warnings: list[str] = []
    for rank, facts in sorted(present.items()):
        ahead = facts.get("ahead", 0.0)
        if abs(ahead) > SKEW_WARNED:
            way = "ahead of" if ahead > 0 else "behind"
            line = (
                f"the clock of {facts['host']} (rank {rank}) is {abs(ahead):.0f} s {way} that of the lead (rank 0) on {present[0]['host']}"
            )
            (refused if abs(ahead) > SKEW_REFUSED else warnings).append(f"{line}; synchronize the clocks by NTP")
    return refused, warnings
