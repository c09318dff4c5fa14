"""The win rate without the judge's taste for length: AlpacaEval 2's length-controlled win rate (Dubois et al. 2024, arXiv 2404.04475).

A logistic regression of the preference on the tanh of the length difference (in standard deviations), on how difficult the instruction is,
and on a constant for the model; its mean prediction at a length difference of 0 is the length-controlled win rate. AlpacaEval regularises
the fit with two gamed baselines, the same model asked to be verbose and to be concise: their preferences join the data with little weight,
and without the constant. Everything is keyed by prompt. AlpacaEval 2 takes the difficulties by row number, so a missing row shifts all that
follow.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from scipy.special import expit

from alpaca_jax.scores.statistics.estimate import Estimate, of_mean, with_error
from alpaca_jax.scores.statistics.logistic import fit

Method = Literal["AlpacaEval 2", "AlpacaEval 2 without gamed baselines", "length only"]
NOTES: dict[Method, str] = {
    "AlpacaEval 2": "the regression of AlpacaEval 2 with its instruction difficulties and gamed baselines",
    "AlpacaEval 2 without gamed baselines": "AlpacaEval 2's regression without its gamed baselines: not a figure of the leaderboard",
    "length only": "a regression on length alone, without difficulties: not AlpacaEval 2's length-controlled win rate",
}


@dataclasses.dataclass(frozen=True)
class Gamed:
    """The gamed baselines in AlpacaEval's regulariser: a row for each preference of theirs, and two sums by which the preferences enter."""

    weight: float  # of a row, a preference of the model having 1
    tanh: np.ndarray
    difficulty: np.ndarray
    sum_tanh_preference: float
    sum_difficulty_preference: float


@dataclasses.dataclass(frozen=True)
class Difficulties:
    """How difficult each prompt is, by AlpacaEval's fit of many models, and the gamed baselines where they are known."""

    values: Mapping[str, float]
    gamed: Gamed | None = None


@dataclasses.dataclass(frozen=True)
class LengthControlled:
    """A length-controlled win rate in percent, the weights of the regression, and which regression it is."""

    estimate: Estimate | None  # None where no fit exists; `note` says why
    method: Method
    note: str
    tanh_length: float | None  # negative: the judge likes the longer answer
    difficulty: float | None
    model: float | None
    prompts: int
    left_out: tuple[str, ...]  # prompts without lengths or without difficulty


def gamed(std_delta_len: np.ndarray, difficulty: np.ndarray, preference: np.ndarray, weight: float = 0.1) -> Gamed:
    """The regulariser from rows such as AlpacaEval's `df_gamed.csv` has; `weight` is its lambda of 0.2 over two baselines."""
    tanh = np.tanh(std_delta_len)
    return Gamed(weight, tanh, difficulty, float(tanh @ preference), float(difficulty @ preference))


def length_controlled(
    preferences: Mapping[str, float], lengths: Mapping[str, tuple[int, int]], difficulties: Difficulties | None = None
) -> LengthControlled:
    """The length-controlled win rate of preferences by prompt; `lengths` are characters of the model's and of the baseline's answer.

    With difficulties and gamed baselines it is AlpacaEval 2's, fitted to the maximum (theirs is penalised by an amount that
    cross-validation finds small: within 0.08 points of the published figures); without difficulties a regression on length alone. The
    standard error is AlpacaEval's for the first, of the predictions over instructions; for the second, whose predictions are all one
    number, it is the regression's own (a sandwich over prompts). Prompts without an entry in the mappings are left out and named.
    """
    known = difficulties.values if difficulties else lengths
    used = sorted(prompt for prompt in preferences if prompt in lengths and prompt in known)
    left_out = tuple(sorted(set(preferences) - set(used)))
    method: Method = "length only" if not difficulties else "AlpacaEval 2" if difficulties.gamed else "AlpacaEval 2 without gamed baselines"
    y, deltas = np.array([preferences[prompt] for prompt in used]), np.array([lengths[prompt][1] - lengths[prompt][0] for prompt in used])

    def without_fit(note: str, estimate: Estimate | None = None) -> LengthControlled:
        return LengthControlled(estimate, method, note, None, None, None, len(used), left_out)

    if len(used) and not deltas.any():
        return without_fit("the answers are equally long: this is the plain win rate", of_mean(100 * y))
    if reason := _unfit(y, deltas):
        return without_fit(reason)
    columns = [np.tanh(deltas / deltas.std(ddof=1)), np.ones(len(used))]
    if difficulties:
        columns.insert(1, np.array([difficulties.values[prompt] for prompt in used]))
    features = np.stack(columns, axis=1)
    solved = fit(features, y, *_extra(difficulties))
    if solved is None:
        return without_fit("the preferences are separated by length, or difficulty doesn't vary: no fit exists")
    at_no_difference = features * (np.arange(features.shape[1]) > 0)
    predicted = 100 * expit(at_no_difference @ solved.weights)
    weights = [float(weight) for weight in solved.weights]
    estimate = of_mean(predicted) if difficulties else _constant(weights[-1], solved.sandwich()[-1, -1])
    difficulty = weights[1] if difficulties else None
    return LengthControlled(estimate, method, NOTES[method], weights[0], difficulty, weights[-1], len(used), left_out)


def _unfit(preferences: np.ndarray, deltas: np.ndarray) -> str:
    """Why these data can't be fitted, "" where they can."""
    if len(preferences) < 3:
        return "fewer than three prompts with a preference and both lengths"
    if np.ptp(deltas) == 0:
        return "the difference in length is the same on every prompt: there is nothing to control"
    return "every preference is the same: there is nothing to fit" if np.ptp(preferences) == 0 and preferences[0] in (0, 1) else ""


def _extra(difficulties: Difficulties | None) -> tuple[np.ndarray | None, np.ndarray | None, float]:
    """The regulariser's rows, its sums of rows times preference, and its weight, as `logistic.fit` takes them."""
    if difficulties is None or difficulties.gamed is None:
        return None, None, 0.0
    known = difficulties.gamed
    rows = np.stack([known.tanh, known.difficulty, np.zeros(len(known.tanh))], axis=1)
    return rows, np.array([known.sum_tanh_preference, known.sum_difficulty_preference, 0.0]), known.weight


def _constant(weight: float, variance: float) -> Estimate:
    """The win rate whose log odds are `weight`, with the ends of the log odds' interval."""
    odds = with_error(float(weight), math.sqrt(variance))
    assert odds.low is not None and odds.high is not None and odds.standard_error is not None
    rate = float(expit(odds.value))
    return Estimate(100 * rate, 100 * rate * (1 - rate) * odds.standard_error, 100 * float(expit(odds.low)), 100 * float(expit(odds.high)))
