"""Logistic regression of numbers between 0 and 1, by Newton's method, with standard errors that are robust to how the rows hang together.

scipy has no regression, and statsmodels (with pandas and patsy) is a large dependency for these few lines.
"""

import dataclasses

import numpy as np
from scipy.special import expit

LARGEST = 30.0  # a weight beyond it (odds of 10^13) means that the likelihood grows without end


@dataclasses.dataclass(frozen=True)
class Fit:
    """The weights of the maximum, the inverse of its information matrix, and each row's score there."""

    weights: np.ndarray
    inverse: np.ndarray
    scores_NF: np.ndarray

    def sandwich(self, *clusterings: np.ndarray) -> np.ndarray:
        """The covariance of the weights where rows of one cluster depend on each other (Liang and Zeger 1986), with no small-sample factor.

        With two clusterings rows depend on each other that share either (Cameron, Gelbach and Miller 2011); what the second adds to the
        first is kept where it is positive, so that a few clusters which agree by chance can't make errors smaller. With none, rows are
        independent.
        """
        if not clusterings:
            return self._covariance(np.arange(len(self.scores_NF)))
        first, *more = clusterings
        covariance = self._covariance(first)
        for second in more:
            both = np.unique(np.stack([first, second], axis=1), axis=0, return_inverse=True)[1]
            values, vectors = np.linalg.eigh(self._covariance(second) - self._covariance(both))
            covariance = covariance + (vectors * np.maximum(values, 0)) @ vectors.T
        return covariance

    def _covariance(self, clusters: np.ndarray) -> np.ndarray:
        sums = np.zeros((clusters.max() + 1, self.scores_NF.shape[1]))
        np.add.at(sums, clusters, self.scores_NF)
        return self.inverse @ (sums.T @ sums) @ self.inverse


def fit(
    features_NF: np.ndarray,
    y_N: np.ndarray,
    more_MF: np.ndarray | None = None,
    more_sums_F: np.ndarray | None = None,
    more_weight: float = 0.0,
) -> Fit | None:
    """The maximum of the log likelihood, None where there is none (separation).

    `more_MF` are further rows that weigh `more_weight` each, of whose y only the sums of row times y are known.
    """
    weights = np.zeros(features_NF.shape[1])
    for _ in range(100):
        expected = expit(features_NF @ weights)
        slope = features_NF.T @ (y_N - expected)
        information = (features_NF.T * (expected * (1 - expected))) @ features_NF
        if more_MF is not None and more_sums_F is not None:
            expected_more = expit(more_MF @ weights)
            slope = slope + more_weight * (more_sums_F - more_MF.T @ expected_more)
            information = information + more_weight * (more_MF.T * (expected_more * (1 - expected_more))) @ more_MF
        if np.linalg.cond(information) > 1e14:
            return None
        step = np.linalg.solve(information, slope)
        weights = weights + step * min(1.0, 4.0 / np.abs(step).max(initial=1e-300))
        if np.abs(weights).max() > LARGEST:
            return None
        if np.abs(step).max() < 1e-10:
            return Fit(weights, np.linalg.inv(information), features_NF * (y_N - expected)[:, None])
    return None
