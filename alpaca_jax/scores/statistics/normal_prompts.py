"""Position taken out of verdicts (won, lost, tie), of which each order of a prompt gives only one.

The log odds that the model's answer wins are q_i + b where it is shown first and q_i - b where it is shown second (Rasch's model with two
items, a prompt being the person). What two verdicts a prompt can say is in a table of four cells: won in both orders, only shown first,
only shown second, in neither. A tie counts as half of each, and several verdicts of an order by their mean.

- b is half the log of the second cell over the third, whatever the q_i are (the conditional likelihood; McNemar's odds ratio): a logistic
  regression that pools the prompts would underestimate it, since averaging over prompts flattens the curve.
- The win rate without position is the mean of sigmoid(q_i). Prompts decided alike in both orders count as they are. How much better the
  model is on those where position decided isn't in the table: with the q_i free, it only bounds the rate. With q_i from a normal
  distribution the three free cells determine its mean, its deviation and b exactly, and with them the rate.
"""

import dataclasses

import numpy as np
from scipy.special import expit

from alpaca_jax.scores.statistics.shift import Corrected

# Standard normal prompts, on a grid that stays exact where the deviation is many logits (unlike Gauss-Hermite nodes).
_GRID = np.linspace(-8.0, 8.0, 201)
_WEIGHTS = np.exp(-(_GRID**2) / 2) / np.exp(-(_GRID**2) / 2).sum()
_NEGLIGIBLE = 0.001  # where the bounds leave no more than a tenth of a point, no distribution needs to be assumed
_ADDED = np.array([0, 0.5, 0.5, 0])  # prompts a cell; see `table`


@dataclasses.dataclass(frozen=True)
class Table:
    """The shares of prompts that were won in both orders, only shown first, only shown second, in neither; and those of each prompt."""

    both: float
    only_first: float
    only_second: float
    neither: float
    parts_N4: np.ndarray

    @property
    def position(self) -> float:
        """The position logit b."""
        return float(np.log(self.only_first / self.only_second) / 2)

    @property
    def alike(self) -> bool:
        """True where prompts differ no more than chance makes them: the deviation of q is then 0."""
        return self.both * self.neither <= self.only_first * self.only_second * (1 + 1e-9)


def table(first_N: np.ndarray, second_N: np.ndarray) -> Table:
    """The table of prompts with the mean preference in each order.

    Half a prompt is added to each of the two cells where position decided, which takes the first-order bias out of the log of their ratio
    (Haldane 1956) and keeps it finite; the other two are kept above 0 by half a prompt where they are empty.
    """
    parts = np.stack([first_N * second_N, first_N * (1 - second_N), (1 - first_N) * second_N, (1 - first_N) * (1 - second_N)], axis=1)
    counts = parts.sum(axis=0) + _ADDED
    counts[[0, 3]] = np.maximum(counts[[0, 3]], 0.5)
    both, only_first, only_second, neither = map(float, counts / counts.sum())
    return Table(both, only_first, only_second, neither, parts)


def corrected(cells: Table) -> Corrected:
    """The position logit and the win rate without position, by the model of this module, with their standard errors."""
    least, most = bounds(cells)
    if most - least < _NEGLIGIBLE:
        rate, slopes_4 = (least + most) / 2, np.array([1, 0.5, 0.5, 0])
    else:
        rate, slopes_4 = _alike(cells) if cells.alike else _spread(cells)
    return Corrected(cells.position, _error(cells, _position_slopes(cells)), rate, _error(cells, slopes_4))


def bounds(cells: Table) -> tuple[float, float]:
    """The least and the greatest win rate without position (0 to 1) that the table allows, however the prompts are spread.

    The cells give three moments of u = exp(q) under the measure 1 / ((1 + u e^b)(1 + u e^-b)); what is sought is one more function of u,
    and is extreme where all u but 0 (or infinity) are equal (the principal representations of Chebyshev and Markov).
    """
    spread = 2 * np.cosh(cells.position)
    moments = cells.neither, (cells.only_first + cells.only_second) / spread, cells.both
    plain = cells.both + (cells.only_first + cells.only_second) / 2

    def rate(ratio: float, weight: float) -> float:
        return float(plain + (spread - 2) / 2 * weight * ratio * (ratio - 1) / (1 + ratio))

    ends = rate(moments[1] / moments[0], moments[0]), rate(moments[2] / moments[1], moments[1] ** 2 / moments[2])
    return (min(plain, *ends), max(plain, *ends)) if cells.alike else (min(ends), max(ends))


def _alike(cells: Table) -> tuple[float, np.ndarray]:
    """Every prompt has the same q: the one with the table's plain average."""
    from scipy.optimize import brentq

    position, plain = cells.position, cells.both + (cells.only_first + cells.only_second) / 2
    q = float(brentq(lambda q: (expit(q + position) + expit(q - position)) / 2 - plain, -60, 60))
    slope_first, slope_second, slope = (p * (1 - p) for p in (expit(q + position), expit(q - position), expit(q)))
    by_plain = slope * 2 / (slope_first + slope_second)
    by_position = -by_plain * (slope_first - slope_second) / 2
    return float(expit(q)), by_plain * np.array([1, 0.5, 0.5, 0]) + by_position * _position_slopes(cells)


def _spread(cells: Table) -> tuple[float, np.ndarray]:
    """Normal q: its mean and deviation from the cells `both` and `neither`, then the rate and how it moves with each of the four cells."""
    from scipy.optimize import root

    position = cells.position

    def distance(unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rates, slopes = _rates(unknown, position)
        return rates[:2] - (cells.both, cells.neither), slopes[:2, :2]

    solved = root(distance, _start(cells), jac=True, tol=1e-12)
    rates, slopes = _rates(solved.x, position)
    # How both, neither and position move with mean, log deviation and position; backwards, how the rate moves with those three.
    system = np.vstack([slopes[:2], [0, 0, 1]])
    by_moment = np.linalg.solve(system.T, slopes[2])
    return float(rates[2]), np.array([by_moment[0], 0, 0, by_moment[1]]) + by_moment[2] * _position_slopes(cells)


def _position_slopes(cells: Table) -> np.ndarray:
    """How the position logit moves with each of the four cells."""
    return np.array([0, 1 / (2 * cells.only_first), -1 / (2 * cells.only_second), 0])


def _error(cells: Table, slopes_4: np.ndarray) -> float:
    """The standard error over prompts of a number that moves so with the cells; the added prompts are as uncertain as the others."""
    weights = np.concatenate([np.ones(len(cells.parts_N4)), _ADDED])
    influences = np.concatenate([cells.parts_N4, np.eye(4)]) @ slopes_4
    centred = influences - np.average(influences, weights=weights)
    return float(np.sqrt(weights @ centred**2) / weights.sum())


def _start(cells: Table) -> list[float]:
    """Mean and log deviation near the solution: the more prompts are decided alike in both orders, the more they differ."""
    association = np.log(cells.both * cells.neither / (cells.only_first * cells.only_second))
    return [float(np.log(cells.both / cells.neither)) / 2, float(np.log(max(association, 0.02))) / 2 - 0.3]


def _rates(unknown: np.ndarray, position: float) -> tuple[np.ndarray, np.ndarray]:
    """The chances of winning in both orders, in neither, and without position; and their slopes by mean, log deviation and position."""
    deviation = np.exp(unknown[1])
    q = unknown[0] + deviation * _GRID
    first, second, fair = expit(q + position), expit(q - position), expit(q)
    values = np.stack([first * second, (1 - first) * (1 - second), fair])
    along = np.stack([values[0] * (2 - first - second), -values[1] * (first + second), fair * (1 - fair)])
    across = np.stack([values[0] * (second - first), -values[1] * (first - second), np.zeros_like(q)])
    slopes = np.stack([along @ _WEIGHTS, along @ (_WEIGHTS * deviation * _GRID), across @ _WEIGHTS], axis=1)
    return values @ _WEIGHTS, slopes
