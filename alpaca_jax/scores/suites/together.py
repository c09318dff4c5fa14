"""Two models on one suite: their rows side by side, and the difference on the same questions."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alpaca_jax.scores.suites.results import Result, Row


class Difference(NamedTuple):
    """By how much the second model's mean is higher, and its paired standard error (None for fewer than two questions)."""

    value: float
    stderr: float | None
    questions: int  # that both answered


@dataclasses.dataclass(frozen=True)
class Pair:
    """A row of the table for two models; `before` is None where there is one model."""

    task: str
    alias: str
    depth: int
    version: str
    filter: str
    shots: int | None
    metric: str
    higher_is_better: bool | None
    before: float | None
    before_stderr: float | None
    value: float
    stderr: float | None
    questions: int
    difference: float | None
    difference_stderr: float | None


def rows(before: Result | None, after: Result, metrics: Sequence[str] = ()) -> Iterator[Pair]:
    """The rows of `after` (of these metrics; none: all), each with that of `before` and their difference where both have it."""
    known = {(row.task, row.metric, row.filter): row for row in before.rows} if before else {}
    for row in after.ordered(metrics):
        old = known.get((row.task, row.metric, row.filter))
        differs = difference(before, after, row) if before and old else None
        yield Pair(
            **dataclasses.asdict(row),
            before=old.value if old else None,
            before_stderr=old.stderr if old else None,
            difference=row.value - old.value if old else None,
            difference_stderr=differs.stderr if differs else None,
        )


def difference(before: Result, after: Result, row: Row) -> Difference | None:
    """That of a row: a task's over its questions, a group's over its tasks, weighed as the harness weighs them; None without samples."""
    tasks = _leaves(after.members, row.task)
    parts = [_paired(*(each.values.get((task, row.metric, row.filter), {}) for each in (before, after))) for task in tasks]
    if not parts or any(part is None for part in parts):
        return None
    found = [part for part in parts if part is not None]
    sizes = np.array([part.questions for part in found], np.float64)
    # The harness's groups weigh their tasks by size or all alike: whichever gives the group's own value.
    means = np.array([float(np.mean(list(after.values[task, row.metric, row.filter].values()))) for task in tasks])
    alike = np.full(len(found), 1 / len(found))
    weights = min((sizes / sizes.sum(), alike), key=lambda each: abs(float(each @ means) - row.value))
    errors = [part.stderr for part in found]
    known = [error for error in errors if error is not None]
    return Difference(
        value=float(weights @ np.array([part.value for part in found])),
        stderr=math.sqrt(float(weights**2 @ np.array(known) ** 2)) if len(known) == len(found) else None,
        questions=int(sizes.sum()),
    )


def _leaves(members: Mapping[str, tuple[str, ...]], task: str) -> list[str]:
    return [leaf for each in members[task] for leaf in _leaves(members, each)] if task in members else [task]


def _paired(before: Mapping[str, float], after: Mapping[str, float]) -> Difference | None:
    both = sorted(before.keys() & after.keys())
    if not both:
        return None
    differences = np.array([after[number] - before[number] for number in both])
    error = float(differences.std(ddof=1)) / math.sqrt(len(both)) if len(both) > 1 else None
    return Difference(float(differences.mean()), error, len(both))
