"""A comparison in words: better, worse, or can't tell and how many prompts it would need."""

import dataclasses
import math
from typing import Literal

from alpaca_jax.scores.statistics.estimate import LEVEL, Estimate
from alpaca_jax.scores.statistics.paired import Difference, needed
from alpaca_jax.scores.statistics.position import Position
from alpaca_jax.scores.statistics.rate import Rate

Word = Literal["better", "worse", "can't tell"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The word, a sentence that can stand alone, and where the word is "can't tell" the prompts that would tell at 80% power."""

    word: Word
    sentence: str
    needed: int | None  # None where it is told already, or where the difference is 0


def verdict(difference: Difference, names: tuple[str, str] = ("a", "b"), p_value: float | None = None) -> Verdict:
    """Whether the first model is better than the second; `p_value`, where given, is one that was adjusted for several comparisons (`holm`).

    Unadjusted, the difference is told where its interval excludes 0 and prompts aren't so few that the exact sign test couldn't tell
    whatever they say (fewer than six that differ).
    """
    sign, estimate = difference.sign, difference.estimate
    enough = 2.0 ** (1 - sign.better - sign.worse) < LEVEL
    told = enough and (_excludes(estimate, 0) if p_value is None else p_value < LEVEL)
    return _said(estimate, told, difference.prompts, names)


def verdict_of_rate(rate: Rate | Position, names: tuple[str, str] = ("the model", "the baseline")) -> Verdict:
    """Whether the model is better than the baseline: its win rate, with position taken out where that was possible, against 50.

    Fewer than six prompts that are decided tell nothing, as in `verdict`.
    """
    if isinstance(rate, Position):
        estimate, decided = rate.corrected or rate.plain, rate.prompts
    else:
        estimate, decided = rate.estimate, rate.wins + rate.losses
    if estimate is None:
        return Verdict("can't tell", f"Nothing can be said about {names[0]} and {names[1]}: there is no readable verdict.", None)
    enough = 2.0 ** (1 - decided) < LEVEL
    margin = Estimate(
        estimate.value - 50, estimate.standard_error, *(None if end is None else end - 50 for end in (estimate.low, estimate.high))
    )
    return _said(margin, enough and _excludes(margin, 0), rate.prompts, names, won=estimate)


def _said(difference: Estimate, told: bool, prompts: int, names: tuple[str, str], won: Estimate | None = None) -> Verdict:
    """The sentence about a difference in points, or about the win rate `won` whose distance from 50 it is."""
    ours, theirs = names
    if won:
        figures = f"{won.value:.1f}% of {prompts} prompts{_interval(won)}"
    else:
        figures = f"{difference.value:+.1f} points on {prompts} prompts{_interval(difference)}"
    if told:
        word: Word = "better" if difference.value > 0 else "worse"
        return Verdict(word, f"{ours} is {word} than {theirs}: {'it wins ' if won else ''}{figures}.", None)
    sentence = f"These data can't tell {ours} from {theirs}: {figures}."
    if not difference.value or not difference.standard_error:
        return Verdict("can't tell", sentence, None)
    wanted = needed(difference.standard_error * math.sqrt(prompts), difference.value)
    more = f"If that is the true difference, it would take about {wanted:,} prompts to find it with 80% power."
    return Verdict("can't tell", f"{sentence} {more}", wanted)


def _excludes(estimate: Estimate, value: float) -> bool:
    return estimate.low is not None and estimate.high is not None and not estimate.low <= value <= estimate.high


def _interval(estimate: Estimate) -> str:
    return "" if estimate.low is None else f" (95% interval {estimate.low:.1f} to {estimate.high:.1f})"
