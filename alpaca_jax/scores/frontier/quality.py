"""How good a run is: the figures of its scores.json that can be compared over runs, each with its standard error."""

import dataclasses
import math
from typing import Any

import numpy as np

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.scores.frontier.found import Run, at, mapping, number, sequence

Z = 1.959964  # of a two-sided interval of 95%


@dataclasses.dataclass(frozen=True)
class Kind:
    """One figure: its name in JSON, what it is called on the page, and which direction is better."""

    name: str
    label: str
    lower: bool
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class Quality:
    """A figure of one run. `each`: the summed loss and the tokens of each example, float64 [2, N], where they are known."""

    value: float
    stderr: float | None
    on: str  # what it was measured on: figures of different sets can't be compared
    each: np.ndarray | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval; None where the standard error isn't known."""
        return None if self.stderr is None else (self.value - Z * self.stderr, self.value + Z * self.stderr)


HELDOUT = Kind("heldout", "held-out loss", lower=True, unit="nats a response token")


def of(run: Run) -> dict[Kind, Quality]:
    """Returns the figures of a run; those that it doesn't have are missing."""
    found: dict[Kind, Quality] = {}
    if (heldout := _heldout(run)) is not None:
        found[HELDOUT] = heldout
    return found | _suites(run.scores.get("suites")) | _win_rates(run.scores.get("compare"))


def difference(one: Quality, other: Quality) -> tuple[float, float | None]:
    """Returns one value minus the other with its standard error: paired over examples where both have them, else of two samples."""
    gap = one.value - other.value
    a, b = one.each, other.each
    if a is not None and b is not None and a.shape == b.shape and a.shape[1] > 1 and np.array_equal(a[1], b[1]) and a[1].sum():
        tokens = a[1]
        residuals = (a[0] - b[0]) - (a[0] - b[0]).sum() / tokens.sum() * tokens
        count = len(tokens)
        return gap, float(np.sqrt(count / (count - 1) * np.square(residuals).sum()) / tokens.sum())
    if one.stderr is None or other.stderr is None:
        return gap, None
    return gap, math.hypot(one.stderr, other.stderr)


def _heldout(run: Run) -> Quality | None:
    value = at(run.scores, "heldout", "after")
    loss = number(at(value, "loss"))
    if loss is None:
        return None
    on = str(at(run.scores, "data", "fingerprint") or "")
    return Quality(loss, number(at(value, "stderr")), on, _each(run, on))


def _each(run: Run, on: str) -> np.ndarray | None:
    """The examples behind a held-out loss, where the file beside scores.json is of the same records."""
    path = run.folder / "evaluate" / "heldout" / "after.json"
    if not path.is_file():
        return None
    content = documents.json_object(documents.read(path), str(path))
    try:
        each = np.array([content["losses"], content["tokens"]], np.float64)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not what evaluate writes there; score the run again") from error
    return each if content.get("data") == on and np.isfinite(each).all() else None


def _suites(value: Any) -> dict[Kind, Quality]:
    """The first row of each suite's table, which is the suite as a whole in its first metric."""
    found = {}
    for name, suite in mapping(value).items():
        row = next((row for row in sequence(at(suite, "rows")) if number(at(row, "value")) is not None), None)
        if row is None:
            continue
        metric = str(at(row, "metric") or "score")
        kind = Kind(f"suites.{name}", f"{metric} on {name}", lower=at(row, "higher_is_better") is False)
        on = [at(row, key) for key in ("task", "version", "shots", "filter", "questions")]
        found[kind] = Quality(number(row["value"]) or 0.0, number(at(row, "stderr")), str(on))
    return found


def _win_rates(value: Any) -> dict[Kind, Quality]:
    """The win rate of the model in each comparison, with the position taken out where that could be done."""
    found = {}
    for comparison in sequence(at(value, "comparisons")):
        rate = at(comparison, "position", "corrected") or at(comparison, "position", "plain") or at(comparison, "rate")
        percent = number(at(rate, "value"))
        if at(comparison, "model") != "model" or percent is None:
            continue
        against = str(at(comparison, "against"))
        on = [at(value, "judge", "model"), at(value, "prompts", "fingerprint"), against]
        kind = Kind(f"compare.{against}", f"win rate against {against}", lower=False, unit="%")
        found[kind] = Quality(percent, number(at(rate, "standard_error")), str(on))
    return found
