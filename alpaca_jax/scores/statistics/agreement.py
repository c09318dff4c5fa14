"""How far two raters agree: two people, a judge and people, or anybody and the rule "the longer one wins"."""

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from alpaca_jax.scores.statistics.estimate import Estimate, wilson, with_error


@dataclasses.dataclass(frozen=True)
class Agreement:
    """On how many items two raters were compared, the percent of equal labels, and Cohen's kappa."""

    items: int
    agreed: Estimate | None  # percent; None where there is no item
    kappa: Estimate | None  # 1: always, 0: as often as chance; None where both gave one and the same label throughout


def agreement(a: Sequence[Hashable], b: Sequence[Hashable], prompts: Sequence[str] | None = None) -> Agreement:
    """The agreement of two raters' labels of the same items (row by row), whatever the labels are.

    Without `prompts` the items are independent, and the percentage has Wilson's interval; with them items of a prompt hang together, and
    both intervals are clustered by prompt.
    """
    assert len(a) == len(b), "two labels an item"
    if not len(a):
        return Agreement(0, None, None)
    equal = np.array([ours == theirs for ours, theirs in zip(a, b, strict=True)], np.float64)
    if prompts is None:
        agreed = wilson(equal.sum(), len(equal))
    else:
        error = _error(equal - equal.mean(), prompts)
        agreed = with_error(float(equal.mean()), error).scaled(100)
    return Agreement(len(equal), agreed, kappa(a, b, prompts))


def kappa(a: Sequence[Hashable], b: Sequence[Hashable], prompts: Sequence[str] | None = None) -> Estimate | None:
    """Cohen's kappa (1960), unweighted; its standard error is that of Fleiss, Cohen and Everitt (1969), clustered where there are
    `prompts`.
    """
    labels = {label: number for number, label in enumerate(dict.fromkeys([*a, *b]))}
    ours, theirs = (np.array([labels[label] for label in side], int) for side in (a, b))
    shares_ours, shares_theirs = (np.bincount(side, minlength=len(labels)) / max(len(side), 1) for side in (ours, theirs))
    by_chance = float(shares_ours @ shares_theirs)
    if not len(ours) or by_chance == 1:
        return None
    equal = (ours == theirs).astype(np.float64)
    value = (float(equal.mean()) - by_chance) / (1 - by_chance)
    # The influence of an item: on the observed agreement directly, on that by chance through both raters' shares.
    chance_influence = shares_theirs[ours] + shares_ours[theirs] - 2 * by_chance
    influence = (equal - equal.mean() - (1 - value) * chance_influence) / (1 - by_chance)
    return with_error(value, _error(influence, prompts))


def longer(first_characters: Sequence[int], second_characters: Sequence[int]) -> np.ndarray:
    """What the rule "the longer one wins" says: 1 the first, 0 the second, 0.5 where both are equally long."""
    return (np.sign(np.asarray(first_characters, float) - np.asarray(second_characters, float)) + 1) / 2


def _error(influence: np.ndarray, prompts: Sequence[str] | None) -> float | None:
    """The standard error of a mean whose items have this influence on it; None for a single cluster."""
    clusters = np.arange(len(influence)) if prompts is None else np.unique(np.asarray(prompts, str), return_inverse=True)[1]
    sums = np.bincount(clusters, influence)
    return float(np.sqrt(sums @ sums) / len(influence)) if len(sums) > 1 else None
