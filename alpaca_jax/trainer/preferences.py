"""The losses of preference learning, as functions of the log-probabilities of whole answers; each is elementwise over pairs or answers.

An answer's log-probability is the sum over its tokens, the one that ends it included; its length counts the same tokens.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST_MEAN = -1e-7  # of a mean log-probability: at 0 the odds of an answer are infinite


class Answers(NamedTuple):
    """Answers under the policy and the reference: log-probabilities in nats (fp32) and lengths in tokens, all of one shape."""

    logps: Float[Array, "..."]
    reference: Float[Array, "..."]
    lengths: Float[Array, "..."]

    @property
    def gain(self) -> Float[Array, "..."]:
        """log pi(y|x) - log ref(y|x), the implicit reward over beta."""
        return self.logps - self.reference

    @property
    def mean(self) -> Float[Array, "..."]:
        """The mean log-probability of an answer's tokens."""
        return self.logps / jnp.maximum(self.lengths, 1.0)

    @property
    def mean_gain(self) -> Float[Array, "..."]:
        """`gain` a token."""
        return self.gain / jnp.maximum(self.lengths, 1.0)


PairLoss = Callable[[Answers, Answers, float, float], Float[Array, "..."]]  # (chosen, rejected, beta, smoothing)


def sigmoid(chosen: Answers, rejected: Answers, beta: float, smoothing: float = 0.0) -> Float[Array, "..."]:
    """DPO (Rafailov et al. 2023, arXiv:2305.18290); with `smoothing`, the share of swapped labels, conservative DPO (Mitchell 2023)."""
    return _logistic(beta * (chosen.gain - rejected.gain), smoothing)


def robust(chosen: Answers, rejected: Answers, beta: float, smoothing: float = 0.0) -> Float[Array, "..."]:
    """DPO that is unbiased under a share `smoothing` (below .5) of swapped labels (Chowdhury et al. 2024, arXiv:2403.00409)."""
    scores = beta * (chosen.gain - rejected.gain)
    flipped = smoothing * jax.nn.log_sigmoid(-scores) - (1 - smoothing) * jax.nn.log_sigmoid(scores)
    return flipped / (1 - 2 * smoothing)


def hinge(chosen: Answers, rejected: Answers, beta: float, smoothing: float = 0.0) -> Float[Array, "..."]:
    """The hinge loss on DPO's margin (Zhao et al. 2023, SLiC-HF, arXiv:2305.10425)."""
    return jax.nn.relu(1 - beta * (chosen.gain - rejected.gain))


def ipo(chosen: Answers, rejected: Answers, beta: float, smoothing: float = 0.0) -> Float[Array, "..."]:
    """IPO (Azar et al. 2023, arXiv:2310.12036) on means over tokens, as its authors ran it (says TRL); `beta` is the paper's tau."""
    return (chosen.mean_gain - rejected.mean_gain - 1 / (2 * beta)) ** 2


def sigmoid_norm(chosen: Answers, rejected: Answers, beta: float, smoothing: float = 0.0) -> Float[Array, "..."]:
    """DPO on means over tokens (Lambert et al. 2024, Tulu 3, arXiv:2411.15124, section 5.1): so a longer answer gains nothing by it."""
    return _logistic(beta * (chosen.mean_gain - rejected.mean_gain), smoothing)


PAIR_LOSSES: Mapping[str, PairLoss] = {
    "sigmoid": sigmoid,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "sigmoid_norm": sigmoid_norm,
}


def simpo(chosen: Answers, rejected: Answers, beta: float, gamma: float) -> Float[Array, "..."]:
    """SimPO (Meng et al. 2024, arXiv:2405.14734): means over tokens, a target margin `gamma`, no reference."""
    return -jax.nn.log_sigmoid(beta * (chosen.mean - rejected.mean) - gamma)


def odds_ratio(chosen: Answers, rejected: Answers) -> Float[Array, "..."]:
    """ORPO's second term, -log sigmoid(log odds ratio), of mean log-probabilities (Hong et al. 2024, arXiv:2403.07691, eq. 7)."""
    return -jax.nn.log_sigmoid(_log_odds(chosen.mean) - _log_odds(rejected.mean))


def kto(answers: Answers, desired: Float[Array, "..."], kl: Float[Array, ""], beta: float) -> Float[Array, "..."]:
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7) of single answers, each `desired` (1) or not (0), without the class weights.

    `kl` is the paper's z0, at least 0 and without a gradient.
    """
    direction = 2 * desired - 1
    return 1 - jax.nn.sigmoid(beta * direction * (answers.gain - kl))


def reward(chosen: Float[Array, "..."], rejected: Float[Array, "..."], centre: float = 0.0) -> Float[Array, "..."]:
    """A reward model's loss (Bradley and Terry 1952), and `centre` x (sum of both)^2, which holds the mean reward near 0
    (Eisenstein et al. 2023, arXiv:2312.09244)."""
    return -jax.nn.log_sigmoid(chosen - rejected) + centre * (chosen + rejected) ** 2


def _logistic(scores: Float[Array, "..."], smoothing: float) -> Float[Array, "..."]:
    return -(1 - smoothing) * jax.nn.log_sigmoid(scores) - smoothing * jax.nn.log_sigmoid(-scores)


def _log_odds(mean_logps: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(p / (1 - p)) of p = exp(mean_logps)."""
    below = jnp.minimum(mean_logps, LARGEST_MEAN)
    return below - jnp.log(-jnp.expm1(below))
