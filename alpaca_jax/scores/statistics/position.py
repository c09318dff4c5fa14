"""How much a judge prefers the answer that it sees first, and the win rate with that taken out.

Each pair of answers is judged in both orders. Averaging the two doesn't remove the position, it shrinks the win rate towards 50: with 2
logits of it and qualities that are normal around 1 with deviation 1, a truth of 69.7 shows as 61.7. The truth is the win rate over the
population of prompts that the same judge would give if position moved nothing; its taste for length and its noise stay in.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from alpaca_jax.scores.statistics import normal_prompts
from alpaca_jax.scores.statistics.estimate import Estimate, of_mean, with_error
from alpaca_jax.scores.statistics.preference import Values, as_preferences
from alpaca_jax.scores.statistics.shift import Corrected, Order, shifted

Kind = Literal["probabilities", "verdicts"]


@dataclasses.dataclass(frozen=True)
class Position:
    """What both orders of the same pairs say: the position, and the win rate (percent) with and without it."""

    logit: Estimate | None  # what being shown first adds to the log odds of being preferred
    plain: Estimate | None  # the average of both orders; None where no prompt has both
    corrected: Estimate | None
    bounds: tuple[float, float] | None  # of verdicts: the least and greatest corrected rate, however strengths are spread over prompts
    kind: Kind
    reason: str  # why there is no logit or no corrected rate; "" where there are both
    first: Estimate | None  # preference for the answer shown first, in percent
    consistent: float | None  # percent of prompts with the same winner (or a tie) in both orders
    prompts: int  # with a readable verdict in both orders
    incomplete: int  # prompts without one, in none of these numbers


def position(preferences: Values, prompts: Sequence[str], model_first: Sequence[bool], asked: Sequence[bool] | None = None) -> Position:
    """The position logit and the corrected win rate from one row a verdict, with standard errors over prompts.

    A row holds the preference for the model's answer, its prompt, whether that answer was shown first, and whether the judge was asked:
    equal answers are a tie that nobody judged, which counts in the rates and says nothing about position. Verdicts of 0, 0.5 and 1 are
    corrected by `normal_prompts`, probabilities by `shift`. Several verdicts of an order stay rows of their own: don't average them before.
    """
    rows = _Rows.made(preferences, prompts, model_first, asked)
    if not rows.complete:
        reason = "no prompt has a readable verdict in both orders"
        return Position(None, None, None, None, rows.kind, reason, None, None, prompts=0, incomplete=rows.incomplete)
    first, second = (order.means(order.preferences) for order in (rows.first, rows.second))
    equal = rows.equal_shares
    plain = np.concatenate([50 * (first + second) * (1 - equal) + 50 * equal, np.full(rows.unasked, 50.0)])
    toward_first = of_mean(50 * (1 + first - second)) if len(first) else None
    same = float(100 * np.mean(np.sign(first - 0.5) == np.sign(second - 0.5))) if len(first) else None
    found, limits, reason = _take_out(rows, first, second)
    return Position(
        logit=None if found is None else with_error(found.logit, found.logit_error, len(first) - 1),
        plain=of_mean(np.sort(plain)),
        corrected=None if found is None else _with_ties(found, rows.judged_share, rows.complete),
        bounds=limits,
        kind=rows.kind,
        reason=reason,
        first=toward_first,
        consistent=same,
        prompts=rows.complete,
        incomplete=rows.incomplete,
    )


def one_order(preferences: Values, model_first: Sequence[bool]) -> Estimate:
    """Where each prompt was judged in one order, drawn at random: how many points more the model wins on those that showed it first.

    The standard error is Welch's. Without both orders of a pair there is no telling it from a difference between the two sets of prompts,
    and no corrected win rate.
    """
    numbers, shown = 100 * as_preferences(preferences), np.asarray(model_first, bool)
    groups = [numbers[chosen & np.isfinite(numbers)] for chosen in (shown, ~shown)]
    if min(map(len, groups)) < 2:
        raise ValueError("the difference between orders needs at least two prompts in each")
    return with_error(float(groups[0].mean() - groups[1].mean()), float(np.sqrt(sum(group.var(ddof=1) / len(group) for group in groups))))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The readable, asked verdicts of the prompts that have both orders, by order; and how many prompts there are besides."""

    first: Order
    second: Order
    kind: Kind
    equal_shares: np.ndarray  # of each of those prompts' rows, of which some may have equal answers where there are several seeds
    unasked: int  # prompts all of whose answers are equal
    incomplete: int

    @property
    def complete(self) -> int:
        return len(self.equal_shares) + self.unasked

    @property
    def judged_share(self) -> float:
        return float((1 - self.equal_shares).sum() / self.complete)

    @classmethod
    def made(cls, preferences: Values, prompts: Sequence[str], model_first: Sequence[bool], asked: Sequence[bool] | None) -> "_Rows":
        numbers, shown = as_preferences(preferences), np.asarray(model_first, bool)
        judged = np.ones(len(numbers), bool) if asked is None else np.asarray(asked, bool)
        names, place = np.unique(np.asarray(prompts, str), return_inverse=True)
        assert len(numbers) == len(shown) == len(place) == len(judged), "one preference, prompt and order a row"
        readable = np.isfinite(numbers) & judged
        counts = [np.bincount(place[readable & chosen], minlength=len(names)) for chosen in (shown, ~shown)]
        whole = (counts[0] > 0) & (counts[1] > 0)
        equal = np.bincount(place[~judged], minlength=len(names))
        number = np.cumsum(whole) - 1
        orders = []
        for chosen in (shown, ~shown):
            used = np.flatnonzero(readable & chosen & whole[place])
            used = used[np.lexsort((numbers[used], place[used]))]  # the order of rows must not change the last bit
            orders.append(Order(numbers[used], number[place[used]]))
        graded = np.concatenate([order.preferences for order in orders])
        kind: Kind = "verdicts" if np.isin(graded, (0.0, 0.5, 1.0)).all() else "probabilities"
        shares = equal[whole] / np.bincount(place, minlength=len(names))[whole]
        alone, left_out = int((~whole & (equal > 0)).sum()), int((~whole & (equal == 0)).sum())
        return cls(orders[0], orders[1], kind, shares, alone, left_out)


def _take_out(rows: _Rows, first: np.ndarray, second: np.ndarray) -> tuple[Corrected | None, tuple[float, float] | None, str]:
    if not len(first):
        return None, None, "all answers are equal: the judge was never asked"
    place = "first" if first.mean() > second.mean() else "second"
    if ((first == 1) & (second == 0)).all() or ((first == 0) & (second == 1)).all():
        return None, None, f"the judge always prefers the answer that is shown {place}: its verdicts say nothing about the answers"
    if rows.kind == "probabilities":
        found = shifted(rows.first, rows.second)
        return found, None, "" if found else f"no shift of the log odds makes both orders agree: the judge is always sure of the {place}"
    if (first == second).all() and np.isin(first, (0.0, 1.0)).all():
        return None, None, "the order never changed a verdict: there is nothing to take out, and the plain win rate stands"
    cells = normal_prompts.table(first, second)
    least, most = (_diluted(end, rows.judged_share) for end in normal_prompts.bounds(cells))
    return normal_prompts.corrected(cells), (least, most), ""


def _diluted(rate: float, judged_share: float) -> float:
    """A rate in percent over all prompts, from that over judged ones (0 to 1); equal answers are ties."""
    return 100 * (judged_share * rate + (1 - judged_share) / 2)


def _with_ties(found: Corrected, judged_share: float, prompts: int) -> Estimate:
    """The corrected rate in percent over all prompts, equal answers being ties."""
    rate = _diluted(found.rate, judged_share)
    if found.rate_error is None:
        return with_error(rate, None)
    # Another draw of prompts has other ties: at most the variance of a share.
    between = judged_share * (1 - judged_share) / prompts * (found.rate - 0.5) ** 2
    return with_error(rate, 100 * float(np.sqrt((judged_share * found.rate_error) ** 2 + between)), prompts - 1)
