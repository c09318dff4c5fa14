"""A judge whose truth is known: it likes quality, the first place and length by given logits, and it is noisy."""

import dataclasses

import numpy as np
from scipy.special import expit


@dataclasses.dataclass(frozen=True)
class KnownJudge:
    """Log odds of preferring the model's answer: normal quality, `length` times the tanh of a standard normal length difference, `position`
    for the answer that is shown first, and a normal `noise` of every call; a verdict within `ties` logits of the line is a tie."""

    quality: float = 1.0
    spread: float = 1.0
    position: float = 2.0
    length: float = 0.0
    noise: float = 0.0
    ties: float = 0.0

    def draw(self, prompts: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The strengths of the model on `prompts` new prompts, in logits with the judge's taste for length, and the length differences."""
        lengths = rng.standard_normal(prompts)
        return self.quality + self.spread * rng.standard_normal(prompts) + self.length * np.tanh(lengths), lengths

    def probability(self, strength: np.ndarray, model_first: bool, rng: np.random.Generator) -> np.ndarray:
        """The probability that the judge gives the model's answer in a call, a tie being half of it."""
        logits = strength + (self.position if model_first else -self.position) + self.noise * rng.standard_normal(strength.shape)
        return (expit(logits - self.ties) + expit(logits + self.ties)) / 2

    def verdict(self, strength: np.ndarray, model_first: bool, rng: np.random.Generator) -> np.ndarray:
        """What it says where it can't say probabilities: 1, 0, or 0.5 for a tie."""
        logits = strength + (self.position if model_first else -self.position) + self.noise * rng.standard_normal(strength.shape)
        drawn = logits + rng.logistic(size=strength.shape)
        return np.where(drawn > self.ties, 1.0, np.where(drawn < -self.ties, 0.0, 0.5))

    def truth(self) -> float:
        """The win rate in percent over the population of prompts that it would give if position moved nothing, by quadrature."""
        grid = np.linspace(-8, 8, 641)
        weights = np.exp(-(grid**2) / 2)
        weights /= weights.sum()
        spread = np.hypot(self.spread, self.noise)
        logits = self.quality + spread * grid[:, None] + self.length * np.tanh(grid)[None, :]
        return float(100 * weights @ ((expit(logits - self.ties) + expit(logits + self.ties)) / 2) @ weights)
