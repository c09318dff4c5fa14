"""The Pareto front: the runs that no other run beats for fewer dollars, and those that can't be told from it."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from alpaca_jax.scores.frontier.quality import Quality, Z, difference

Place = Literal["front", "tied", "behind"]


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where a run stands: on the front, not to be told from the front run that it is compared with, or behind that one."""

    place: Place
    against: int | None = None  # the best front run that costs no more
    gap: float | None = None  # how much worse it is
    stderr: float | None = None  # of the gap


def place(dollars: Sequence[float], qualities: Sequence[Quality], lower: bool) -> list[Placed]:
    """Returns where each run stands, in the order given.

    A run is on the front if every run that costs as much or less is worse; of equal runs, the first is. One behind the front is `tied` if
    the 95% interval of its difference from the best front run within its dollars holds 0: paired where both were measured on the same
    examples. Without a standard error nothing is said to be tied.
    """
    sign = 1.0 if lower else -1.0
    order = sorted(range(len(dollars)), key=lambda run: (dollars[run], sign * qualities[run].value, run))
    placed: list[Placed] = [Placed("front")] * len(dollars)
    best: int | None = None
    for run in order:
        if best is None or sign * qualities[run].value < sign * qualities[best].value:
            best = run
            continue
        gap, stderr = difference(qualities[run], qualities[best])
        gap *= sign
        tied = gap == 0 or (stderr is not None and gap <= Z * stderr)
        placed[run] = Placed("tied" if tied else "behind", best, gap, stderr)
    return placed


def along(dollars: Sequence[float], placed: Sequence[Placed]) -> list[int]:
    """Returns the runs on the front, from the cheapest to the best."""
    return sorted((run for run, one in enumerate(placed) if one.place == "front"), key=lambda run: dollars[run])
