"""Position taken out of judged probabilities: the shift of their log odds after which both orders give the same win rate.

Shown first, the model's answer on prompt i is preferred with probability p = sigmoid(q_i + b), shown second with p' = sigmoid(q_i - b),
each with noise of its own. The b for which mean sigmoid(logit p - b) = mean sigmoid(logit p' + b) is the position logit, and either side is
the win rate without it. Nothing is assumed about how the q_i are spread over prompts, nor about the noise except that it is the same in
both orders. A mean of log odds would estimate the same b, but the few extreme ones (a judge that is sure to six digits) would dominate it.
"""

import dataclasses

import numpy as np
from scipy.special import expit, logit

from alpaca_jax.scores.statistics.estimate import of_mean

REACH = 60.0  # logits; farther out a float64 probability can't be told from 0 or 1


@dataclasses.dataclass(frozen=True)
class Corrected:
    """The position logit and the win rate without position (0 to 1), with their standard errors over prompts (None for a single one)."""

    logit: float
    logit_error: float | None
    rate: float
    rate_error: float | None


@dataclasses.dataclass(frozen=True)
class Order:
    """The verdicts of one order: preferences, and the number (0 to n - 1) of the prompt of each; every prompt has one."""

    preferences: np.ndarray
    prompts: np.ndarray

    def means(self, values: np.ndarray) -> np.ndarray:
        """The mean of `values`, one a verdict, over each prompt's verdicts."""
        return np.bincount(self.prompts, values) / np.bincount(self.prompts)


def shifted(first: Order, second: Order) -> Corrected | None:
    """What is left of the preferences when the position is taken out; None where no shift makes the orders equal (all are 0 or 1)."""
    from scipy.optimize import brentq

    logits_first, logits_second = logit(first.preferences), logit(second.preferences)

    def gap(shift: float) -> float:
        return float(np.mean(first.means(expit(logits_first - shift))) - np.mean(second.means(expit(logits_second + shift))))

    if not gap(-REACH) > 0 > gap(REACH):
        return None
    shift = float(brentq(gap, -REACH, REACH, xtol=1e-12))
    ours_first, ours_second = expit(logits_first - shift), expit(logits_second + shift)
    rate_first, rate_second = first.means(ours_first), second.means(ours_second)
    slope_first = np.mean(first.means(ours_first * (1 - ours_first)))
    slope_second = np.mean(second.means(ours_second * (1 - ours_second)))
    both = (rate_first + rate_second) / 2
    logit_influence = (rate_first - rate_second) / (slope_first + slope_second)
    rate_influence = both - both.mean() + (slope_second - slope_first) / 2 * logit_influence
    return Corrected(shift, of_mean(logit_influence).standard_error, float(both.mean()), of_mean(rate_influence).standard_error)
