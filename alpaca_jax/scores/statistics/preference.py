"""What a judge said, as numbers: 1 where the model's answer is preferred to the baseline's, 0 where it isn't, 0.5 for a tie.

A judge that gives probabilities says something between; NaN is no verdict. Rows are keyed by prompt, never by their place: leaderboards
have been wrong because rows were missing and everything after them was read one place off.
"""

from collections.abc import Iterable, Sequence

import numpy as np

Values = Sequence[float | None] | np.ndarray


def as_preferences(values: Values) -> np.ndarray:
    """`values` as float64, None as NaN; ValueError for one outside 0 to 1."""
    numbers = np.array(values, np.float64)  # numpy reads None as NaN
    wrong = np.flatnonzero((numbers < 0) | (numbers > 1))
    if len(wrong):
        raise ValueError(f"preference {wrong[0] + 1} of {len(numbers)} is {numbers[wrong[0]]}: a preference lies between 0 and 1")
    return numbers


def from_alpaca_eval(values: Values) -> np.ndarray:
    """Preferences from AlpacaEval's coding: 1 the baseline, 2 the model, between them a probability, 0 or 1.5 a draw, None no verdict."""
    numbers = np.array(values, np.float64)
    return as_preferences(np.where(numbers == 0, 1.5, numbers) - 1)


def by_prompt(preferences: Values, prompts: Iterable[str]) -> dict[str, float]:
    """Each prompt's mean over its readable verdicts (orders, seeds, votes); a prompt without one is absent."""
    gathered: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, as_preferences(preferences), strict=True):
        if not np.isnan(value):
            gathered.setdefault(prompt, []).append(float(value))
    # Sorted, so that the order of rows can't change the last bit.
    return {prompt: float(np.mean(np.sort(values))) for prompt, values in gathered.items()}


def outcomes(preferences: Values) -> np.ndarray:
    """1 where the model's answer is the likelier winner, 0 where the baseline's is, 0.5 where neither, NaN where there is no verdict."""
    numbers = as_preferences(preferences)
    return np.where(np.isnan(numbers), np.nan, (np.sign(numbers - 0.5) + 1) / 2)
