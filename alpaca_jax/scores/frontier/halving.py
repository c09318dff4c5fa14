"""What the next halving of the loss costs: a power law with a floor along the front, loss = floor + scale * dollars ** -exponent.

The form is that of neural scaling laws (Hestness et al. 2017, arXiv:1712.00409; Hoffmann et al. 2022, arXiv:2203.15556), over dollars.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from alpaca_jax.scores.frontier.quality import Kind, Quality, Z, difference

PARAMETERS = 3
DRAWS = 400
EXPONENTS = np.geomspace(0.01, 8.0, 300)
MISFIT = 0.001  # the chance of a misfit as large as that at which the curve is given up
WIDEST = 100.0  # times from the lower to the upper end of an interval that is still worth a sentence
FARTHEST = 100.0  # times the dollars of the best run to which the curve is believed


@dataclasses.dataclass(frozen=True)
class Curve:
    """A fitted power law; `edge` says that its exponent lies at an end of those tried, so that the data don't hold it."""

    floor: float
    scale: float
    exponent: float
    misfit: float  # weighted sum of squares
    edge: bool

    def halving(self, dollars: float) -> float:
        """Returns how many dollars beyond `dollars` halve what is left above the floor; infinite where the curve is flat."""
        with np.errstate(over="ignore"):
            return float(dollars * np.expm1(np.log(2.0) / self.exponent)) if self.scale > 0 and not self.edge else math.inf


@dataclasses.dataclass(frozen=True)
class Halving:
    """The sentence, and its figures where there are any: dollars beyond those of the best run, with their 95% interval."""

    sentence: str
    dollars: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    exponent: float | None = None


def fit(dollars: np.ndarray, losses: np.ndarray, errors: np.ndarray) -> Curve:
    """Returns the weighted least-squares curve with floor >= 0 and scale >= 0: for each exponent a straight line, then the best one."""
    return fits(dollars, losses[None], errors)[0]


def fits(dollars: np.ndarray, losses_DN: np.ndarray, errors: np.ndarray) -> list[Curve]:
    """Returns the curve of each of D rows of losses at the same N dollars."""
    unit = math.exp(float(np.log(dollars).mean()))
    floors, scales, misfits = _lines(np.power(dollars / unit, -EXPONENTS[:, None]), losses_DN, 1.0 / np.square(errors))
    best = misfits.argmin(axis=1)
    return [
        Curve(
            floor=float(floors[row, place]),
            scale=float(scales[row, place] * unit ** EXPONENTS[place]),
            exponent=float(EXPONENTS[place]),
            misfit=float(misfits[row, place]),
            edge=place in (0, len(EXPONENTS) - 1),
        )
        for row, place in enumerate(best)
    ]


def halving(kind: Kind, dollars: Sequence[float], qualities: Sequence[Quality]) -> Halving:
    """Returns what the next halving costs, from the runs on the front in the order of their dollars; or why that can't be said."""
    what = f"What the next halving of the {kind.label} costs" if kind.lower else f"What halving the rest of the {kind.label} costs"
    since = _last_step(kind, dollars, qualities)
    if len(dollars) > 1 and (same := _same(kind, dollars, qualities)):
        return Halving(f"{what} can't be said: {same}")
    if len(dollars) <= PARAMETERS:
        count = f"{len(dollars)} run" + ("s" if len(dollars) != 1 else "")
        return Halving(f"{what} can't be said: the front has {count}, and a curve with a floor needs {PARAMETERS + 1} or more.{since}")
    errors = np.array([one.stderr or math.nan for one in qualities])
    if not np.isfinite(errors).all() or min(dollars) <= 0:
        lacks = "a run on it cost nothing" if min(dollars) <= 0 else "not every run on it has a standard error"
        return Halving(f"{what} can't be said: no curve can be fitted to the front, since {lacks}.{since}")
    spent = np.array(dollars, np.float64)
    curve = fit(spent, _losses(kind, qualities), errors)
    if stats.chi2.sf(curve.misfit, len(spent) - PARAMETERS) < MISFIT:
        off = math.sqrt(curve.misfit / (len(spent) - PARAMETERS))
        return Halving(
            f"{what} can't be said: the front is no single power law of the dollars (its runs lie {off:.0f} standard errors off the best "
            f"one, floor {curve.floor:.2f}).{since}",
            floor=curve.floor,
            exponent=curve.exponent,
        )
    draws = [drawn.halving(float(spent[-1])) for drawn in fits(spent, _draws(kind, qualities), errors)]
    low, high = (float(np.quantile(draws, share, method="inverted_cdf")) for share in (0.025, 0.975))
    return _said(kind, what, since, curve, float(spent[-1]), _losses(kind, qualities)[-1], float(errors[-1]), low, high)


def money(dollars: float) -> str:
    """Returns an amount: above a hundred in whole dollars, else to the cent, below a dollar with three figures."""
    if dollars == 0 or abs(dollars) >= 1:
        return f"${dollars:,.{0 if abs(dollars) >= 100 or dollars == 0 else 2}f}"
    return f"${dollars:.{2 - math.floor(math.log10(abs(dollars)))}f}"


def _said(kind: Kind, what: str, since: str, curve: Curve, spent: float, best: float, error: float, low: float, high: float) -> Halving:
    cost = curve.halving(spent)
    figures = {"floor": curve.floor, "exponent": curve.exponent, "low": low if math.isfinite(low) else None}
    if not math.isfinite(cost) or not math.isfinite(high) or high > WIDEST * low:
        end = "no end above" if not math.isfinite(high) else f"an end at {money(high)}"
        start = "not even a lower end" if not math.isfinite(low) else f"an interval from {money(low)} with {end}"
        return Halving(f"{what} can't be said from these runs: the fit gives {start}.{since}", **figures)
    if cost > FARTHEST * spent:
        far = f"the curve, fitted up to {money(spent)} a run, would have to hold for {cost / spent:,.0f} times as much"
        return Halving(f"{what} can't be said from these runs: {far}.{since}", **figures)
    left = best - curve.floor
    unit = f" {kind.unit}" if kind.unit and kind.lower else ""
    seen = f" Half of what is left is less than the standard error of the best run ({error:.2g}), so it could hardly be seen."
    return Halving(
        f"Halving what is left of the {kind.label if kind.lower else 'error'} above its floor (now {left:.3g} of {best:.3f}{unit}, floor "
        f"{curve.floor:.2f}) costs {money(cost)} more a run (95% interval {money(low)} to {money(high)}), if the power law of the front "
        f"(exponent {curve.exponent:.2f}) goes on to {(spent + cost) / spent:.1f} times the dollars of the best run."
        f"{seen if left / 2 < error else ''}{since}",
        cost,
        high=high,
        **figures,
    )


def _same(kind: Kind, dollars: Sequence[float], qualities: Sequence[Quality]) -> str:
    """Says that the best run on the front can't be told from the cheapest; "" where it can be, or where that isn't known."""
    gap, stderr = difference(qualities[-1], qualities[0])
    if stderr is None or abs(gap) > Z * stderr:
        return ""
    return (
        f"the best run on the front, at {money(dollars[-1])}, can't be told from the cheapest, at {money(dollars[0])} "
        f"({kind.label} {qualities[-1].value:.3f} and {qualities[0].value:.3f}, standard error of the difference {stderr:.2g})."
    )


def _last_step(kind: Kind, dollars: Sequence[float], qualities: Sequence[Quality]) -> str:
    """The last step of the front as it was measured."""
    if len(dollars) < 2:
        return ""
    gap, stderr = difference(qualities[-1], qualities[-2])
    verb = "lower" if kind.lower else "higher"
    least, most = (abs(gap) - Z * (stderr or 0.0), abs(gap) + Z * (stderr or 0.0))
    told = "" if least > 0 or stderr is None else ", which can't be told from nothing"
    interval = "" if stderr is None else f", 95% interval {least:.2g} to {most:.2g}"
    return (
        f" As measured, the last step along the front, from {money(dollars[-2])} to {money(dollars[-1])} a run, made the "
        f"{kind.label} {abs(gap):.2g} {verb} ({qualities[-2].value:.3f} to {qualities[-1].value:.3f}{interval}){told}."
    )


def _losses(kind: Kind, qualities: Sequence[Quality]) -> np.ndarray:
    """The values as something that falls to a floor: a loss, or the share that is missing from a score of 1 (or 100)."""
    values = np.array([one.value for one in qualities], np.float64)
    return values if kind.lower else (100.0 if kind.unit == "%" else 1.0) - values


def _draws(kind: Kind, qualities: Sequence[Quality]) -> np.ndarray:
    """The losses [DRAWS, N] of repetitions: the held-out examples drawn again for all runs at once, or each run by its standard error."""
    random = np.random.default_rng(0)
    each = [one.each for one in qualities]
    if all(one is not None for one in each) and len({one.shape for one in each if one is not None}) == 1:
        losses, tokens = (np.stack([one[row] for one in each if one is not None]) for row in (0, 1))
        chosen = random.integers(0, losses.shape[1], (DRAWS, losses.shape[1]))
        return np.stack([losses[:, draw].sum(1) / np.maximum(tokens[:, draw].sum(1), 1.0) for draw in chosen])
    errors = np.array([one.stderr for one in qualities], np.float64)
    return _losses(kind, qualities) + random.normal(size=(DRAWS, len(errors))) * errors


def _lines(powers_EN: np.ndarray, losses_DN: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(floor, scale, misfit), each [D, E], of the weighted straight line of each row over each row of powers, neither negative."""
    total = weights.sum()
    x_E, y_D = powers_EN @ weights / total, losses_DN @ weights / total
    spread_E = np.maximum(np.square(powers_EN - x_E[:, None]) @ weights, np.finfo(np.float64).tiny)
    scale = np.maximum(0.0, ((losses_DN - y_D[:, None]) * weights) @ (powers_EN - x_E[:, None]).T / spread_E)
    floor = y_D[:, None] - scale * x_E
    through_zero = (losses_DN * weights) @ powers_EN.T / (np.square(powers_EN) @ weights)
    scale, floor = np.where(floor < 0, through_zero, scale), np.maximum(floor, 0.0)
    off = losses_DN[:, None, :] - floor[:, :, None] - scale[:, :, None] * powers_EN
    return floor, scale, np.square(off) @ weights
