"""A number with its standard error and its 95% interval."""

import dataclasses
import math

import numpy as np
from scipy import special

LEVEL = 0.05  # every interval is a 95% interval


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value, its standard error, and the ends of its 95% interval, all in one unit; None where the data are too few to say."""

    value: float
    standard_error: float | None
    low: float | None
    high: float | None

    def scaled(self, factor: float) -> "Estimate":
        """The same in another unit, which is `factor` (above 0) times smaller."""
        error, low, high = (None if one is None else one * factor for one in (self.standard_error, self.low, self.high))
        return Estimate(self.value * factor, error, low, high)


def of_mean(values: np.ndarray) -> Estimate:
    """The mean of independent values with s / sqrt(n), s with n - 1, and Student's interval; ValueError for no value at all."""
    if not len(values):
        raise ValueError("a mean needs at least one value")
    error = None if len(values) < 2 else float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return with_error(float(np.mean(values)), error, len(values) - 1)


def with_error(value: float, error: float | None, freedom: float = math.inf) -> Estimate:
    """`value` with a Student interval of `freedom` degrees around it, the normal one where they are infinite."""
    if error is None or not math.isfinite(error):
        return Estimate(value, None, None, None)
    reach = float(special.stdtrit(freedom, 1 - LEVEL / 2)) * error if math.isfinite(freedom) else normal_quantile(1 - LEVEL / 2) * error
    return Estimate(value, error, value - reach, value + reach)


def normal_quantile(probability: float) -> float:
    """The standard normal distribution's quantile."""
    return float(special.ndtri(probability))


def two_sided(statistic: float) -> float:
    """The probability that a standard normal variable lies as far from 0 as `statistic`, or farther."""
    return float(2 * special.ndtr(-abs(statistic)))


def wilson(successes: float, trials: float) -> Estimate:
    """The percentage of `successes` among `trials` with Wilson's 95% interval (1927), inside 0 to 100; ValueError for no trial."""
    if trials <= 0:
        raise ValueError("a share needs at least one trial")
    share, z = float(successes / trials), normal_quantile(1 - LEVEL / 2)
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    error = math.sqrt(share * (1 - share) / trials)
    return Estimate(100 * share, 100 * error, 100 * max(0.0, middle - reach), 100 * min(1.0, middle + reach))
