"""How much better each answer is than the others of its group."""

from typing import Literal

import numpy as np

EPSILON = 1e-4  # beside a standard deviation
Kind = Literal["standard", "mean", "others"]


def of(rewards: np.ndarray, counted: np.ndarray, kind: Kind) -> np.ndarray:
    """The advantage of each answer, float64 [groups, G], from its reward; 0 where it isn't `counted` (bool [groups, G]).

    `standard`: (r - mean) / (s + 1e-4), s with n - 1 (GRPO, arXiv:2402.03300). `mean`: r - mean (Dr. GRPO, arXiv:2503.20783). `others`:
    r - the mean of the others (RLOO, arXiv:2402.14740). Answers that aren't counted don't count in their group; one alone has none.
    """
    advantages = np.zeros(rewards.shape)
    for group, (own, which) in enumerate(zip(rewards.astype(np.float64), counted, strict=True)):
        values = own[which]
        if len(values) < 2:
            continue
        ahead = values - values.mean()
        if kind == "standard":
            ahead = ahead / (values.std(ddof=1) + EPSILON)
        elif kind == "others":
            ahead = ahead * len(values) / (len(values) - 1)
        advantages[group, which] = ahead
    return advantages


def all_equal(rewards: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Which groups teach nothing, bool [groups]: those whose counted answers have one reward."""
    return np.array([len(set(own[which].tolist())) < 2 for own, which in zip(rewards, counted, strict=True)])
