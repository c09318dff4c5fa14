"""Two models on the same prompts: their difference, which is known better than either win rate, since hard prompts are hard for both."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from alpaca_jax.scores.statistics.estimate import LEVEL, Estimate, normal_quantile, of_mean, two_sided

RESAMPLES = 4000


@dataclasses.dataclass(frozen=True)
class SignTest:
    """On how many prompts a beats b and the reverse, and the exact two-sided binomial p-value of that; equal prompts say nothing."""

    better: int
    worse: int
    ties: int
    p_value: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """a minus b in points, over the prompts that both have a preference on."""

    estimate: Estimate  # its standard error is the paired one
    prompts: int
    left_out: int  # prompts that only one of them has
    deviation: float | None  # standard deviation of a prompt's difference, in points
    unpaired_error: float | None  # what the standard error would be if each had prompts of its own
    correlation: float | None  # None where one of them is constant
    p_value: float | None  # normal approximation, paired
    p_unpaired: float | None
    bootstrap: tuple[float, float] | None  # 95% interval, percentiles of resampled prompts
    sign: SignTest


def paired(a: Mapping[str, float], b: Mapping[str, float], seed: int = 0) -> Difference:
    """The difference of two models' preferences by prompt (against the same baseline, or each other's scores), in any order of the prompts.

    ValueError where no prompt is in both.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError("no prompt has a preference of both models")
    ours, theirs = (100 * np.array([side[prompt] for prompt in shared]) for side in (a, b))
    differences, n = ours - theirs, len(shared)
    estimate = of_mean(differences)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    sign = SignTest(better, worse, n - better - worse, _sign_test(better, worse))
    left_out = len(a.keys() ^ b.keys())
    if estimate.standard_error is None:
        return Difference(estimate, n, left_out, None, None, None, None, None, None, sign)
    unpaired = math.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / n)
    varies = np.ptp(ours) > 0 and np.ptp(theirs) > 0
    return Difference(
        estimate=estimate,
        prompts=n,
        left_out=left_out,
        deviation=estimate.standard_error * math.sqrt(n),
        unpaired_error=unpaired,
        correlation=float(np.corrcoef(ours, theirs)[0, 1]) if varies else None,
        p_value=_p_value(estimate.value, estimate.standard_error),
        p_unpaired=_p_value(estimate.value, unpaired),
        bootstrap=_bootstrap(differences, seed),
        sign=sign,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being several, in their order: the chance of any false finding stays below the level (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return [float(value) for value in adjusted]


def needed(deviation: float, difference: float, power: float = 0.8, level: float = LEVEL) -> int:
    """How many prompts find `difference` with probability `power` in a two-sided test, if a prompt's difference deviates by `deviation`.

    Both in points; ValueError for a difference of 0, which no number of prompts finds.
    """
    if difference == 0:
        raise ValueError("a difference of 0 can't be found with any number of prompts")
    return max(2, math.ceil(((normal_quantile(1 - level / 2) + normal_quantile(power)) * deviation / difference) ** 2))


def _p_value(value: float, error: float) -> float:
    return two_sided(value / error) if error > 0 else float(value == 0)


def _bootstrap(differences: np.ndarray, seed: int) -> tuple[float, float]:
    """Percentiles of the mean of resampled prompts, which are sorted first so that their order can't matter."""
    rng, values, n = np.random.default_rng(seed), np.sort(differences), len(differences)
    step = max(1, 1_000_000 // n)  # resamples at once: eight megabytes
    means = [values[rng.integers(0, n, (min(step, RESAMPLES - done), n))].mean(axis=1) for done in range(0, RESAMPLES, step)]
    low, high = np.quantile(np.concatenate(means), [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def _sign_test(better: int, worse: int) -> float:
    """The exact two-sided p-value."""
    from scipy import stats  # takes long to import, and is needed here alone

    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
