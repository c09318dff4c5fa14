"""The choices of a policy-gradient loss, apart from JAX so that a config can name them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rule:
    """A policy-gradient loss (see `objectives.reinforce`).

    `ratio`: what is compared with the policy that sampled: each token, the whole answer, or its tokens' geometric mean.
    """

    ratio: Literal["token", "mean", "answer"] = "token"
    average: Literal["answers", "tokens", "longest"] = "answers"  # of an answer's tokens; of all; their sum over the longest there may be
    clip: tuple[float, float] = (0.2, 0.2)  # the ratio counts from 1 - clip[0] to 1 + clip[1]
    beta: float = 0.0  # of the KL divergence from the reference
    temperature: float = 1.0  # of the policy
    longest: int = 1  # tokens that an answer may have, for `average=longest`
