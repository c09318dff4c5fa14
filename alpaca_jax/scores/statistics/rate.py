"""The win rate: how often the model's answer is preferred to the baseline's, in percent of prompts."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from alpaca_jax.scores.statistics.estimate import Estimate, of_mean, wilson
from alpaca_jax.scores.statistics.preference import Values, as_preferences, by_prompt


@dataclasses.dataclass(frozen=True)
class Rate:
    """A win rate in percent, and the counts that it is made of."""

    estimate: Estimate | None  # the mean over prompts; None where there is no verdict at all
    wins: int  # prompts whose mean preference is above 1/2
    losses: int
    ties: int
    prompts: int  # with at least one readable verdict
    votes: int  # readable verdicts
    missing: int  # unreadable ones
    of_decided: Estimate | None  # wins among wins and losses, with Wilson's interval


def win_rate(preferences: Values, prompts: Sequence[str] | None = None) -> Rate:
    """The mean over prompts of their mean preference, with the standard error over prompts (n - 1 in the variance) and Student's interval.

    Several verdicts on a prompt (both orders, seeds, voters) are averaged first: they aren't independent, prompts are. Without `prompts`
    each value is a prompt. With one verdict a prompt it is AlpacaEval's `win_rate` and `standard_error`.
    """
    numbers = as_preferences(preferences)
    means = by_prompt(numbers, map(str, range(len(numbers))) if prompts is None else prompts)
    values = np.sort(np.array(list(means.values()), np.float64))
    wins, losses = int((values > 0.5).sum()), int((values < 0.5).sum())
    return Rate(
        estimate=of_mean(100 * values) if len(values) else None,
        wins=wins,
        losses=losses,
        ties=len(values) - wins - losses,
        prompts=len(values),
        votes=int(np.isfinite(numbers).sum()),
        missing=int(np.isnan(numbers).sum()),
        of_decided=wilson(wins, wins + losses) if wins + losses else None,
    )
