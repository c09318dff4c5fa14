"""What a student is told of its teacher's next-token distribution: all of it, draws from it, or its most probable tokens."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exact:
    """The whole distribution, as the last hidden states and the output matrix of each teacher; good for any divergence and temperature.

    Several teachers are one mixture, with the weights `shares` at each token: all teachers alike where it is None, one alone where it is
    one-hot. A teacher's matrix may have more or fewer rows than the student's.
    """

    hidden: tuple[jax.Array, ...]  # float [B, T, its own width]
    heads: tuple[jax.Array, ...]  # float [its own rows, its own width]
    shares: jax.Array | None = None  # float32 [B, T, N]

    def per_token(self) -> dict[str, Any]:
        """The fields that have a row and a place."""
        return {"hidden": self.hidden, "shares": self.shares}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Draws:
    """Tokens drawn from the teacher at one temperature, with how often each was drawn (0: an empty slot): an unbiased forward KL.

    `entropy` is the teacher's own at that temperature, in nats, which turns the cross-entropy to the draws into a divergence; `top` is its
    most probable token. Random-sampling distillation of arXiv:2503.16870.
    """

    ids: jax.Array  # int32 [B, T, M]
    counts: jax.Array  # int32 [B, T, M]
    entropy: jax.Array  # float32 [B, T]
    top: jax.Array  # int32 [B, T]

    def per_token(self) -> dict[str, Any]:
        """The fields that have a row and a place."""
        return {"ids": self.ids, "counts": self.counts, "entropy": self.entropy, "top": self.top}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Top:
    """The teacher's most probable tokens, best first, with their log-probabilities at one temperature (minus infinity: an empty slot).

    All other tokens are one more outcome, whose probability is what is left. So a divergence is a lower bound of the whole one, and equal
    to it where every token has a slot.
    """

    ids: jax.Array  # int32 [B, T, K]
    log_probs: jax.Array  # float [B, T, K]

    def per_token(self) -> dict[str, Any]:
        """The fields that have a row and a place."""
        return {"ids": self.ids, "log_probs": self.log_probs}

    def renormalized(self) -> "Top":
        """The same tokens as if no others existed: biased, its students are overconfident (arXiv:2503.16870)."""
        sums = jax.nn.logsumexp(self.log_probs, axis=-1, keepdims=True)
        return Top(self.ids, jnp.where(jnp.isfinite(self.log_probs), self.log_probs - sums, -jnp.inf))


Signal = Exact | Draws | Top
