"""Logistic regression of numbers between 0 and 1, by Newton's method, with standard errors that are robust to how the rows hang together.

scipy has no regression and statsmodels is a large dependency (pandas, patsy) for these few lines; on the reference data the two agree to 1e-9.
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
        """The covariance of the weights where rows of one cluster depend on each other (Liang and Zeger 1986), without small-sample factors.

        With two clusterings rows depend on each other that share either (Cameron, Gelbach and Miller 2011); should that sum not be positive
        definite, its negative directions are set to 0, as they propose.
        """
        meat = sum(_meat(self.scores_NF, clusters) for clusters in clusterings)
        if len(clusterings) == 2:
            meat = meat - _meat(self.scores_NF, np.unique(np.stack(clusterings, axis=1), axis=0, return_inverse=True)[1])
        assert 1 <= len(clusterings) <= 2
        values, vectors = np.linalg.eigh(self.inverse @ meat @ self.inverse)
        return (vectors * np.maximum(values, 0)) @ vectors.T


def fit(
    features_NF: np.ndarray,
    y_N: np.ndarray,
    more_MF: np.ndarray | None = None,
    more_sums_F: np.ndarray | None = None,
    more_weight: float = 0.0,
) -> Fit | None:
    """The maximum of the mean log likelihood, None where there is none (separation).

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
        if np.abs(step).max() < 1e-12:
            return Fit(weights, np.linalg.inv(information), features_NF * (y_N - expected)[:, None])
    return None


def _meat(scores_NF: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The sum over clusters of the outer product of their summed scores."""
    sums = np.zeros((clusters.max() + 1, scores_NF.shape[1]))
    np.add.at(sums, clusters, scores_NF)
    return sums.T @ sums
