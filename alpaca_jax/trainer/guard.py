"""The guard against bad steps: a loss or gradient that is not finite, or a loss far above those before it."""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Above1, Range

RING = 256  # losses remembered, whatever the window, so that a resumed run may change it
Window = Annotated[int, Range(1, RING, give=f"1 to {RING}")]


@configclass
class GuardConfig:
    """What is a bad step and what follows one. Its update is withheld under every policy; the loop stops, continues, or rolls back."""

    policy: Literal["stop", "skip", "rollback"] = "stop"
    spike: Above1 | None = None  # a loss above this multiple of the median of the last good ones is bad; null: any finite loss is good
    window: Window = 32  # good losses in that median; before there are this many, no loss is a spike


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Guard:
    """The last good losses (fp32 [RING], a ring buffer) and how many there have been (int32)."""

    losses: Array
    filled: Array


def empty() -> Guard:
    """The Guard that has seen no step."""
    return Guard(jnp.zeros(RING, jnp.float32), jnp.zeros((), jnp.int32))


def is_bad(config: GuardConfig, guard: Guard | None, loss: Float[Array, ""], gradient_norm: Float[Array, ""]) -> Bool[Array, ""]:
    """True for a step whose update must be withheld."""
    bad = ~(jnp.isfinite(loss) & jnp.isfinite(gradient_norm))
    if guard is None or config.spike is None:
        return bad
    recent = guard.losses[(guard.filled - 1 - jnp.arange(config.window)) % RING]
    return bad | ((guard.filled >= config.window) & (loss > config.spike * jnp.median(recent)))


def remember(guard: Guard, loss: Float[Array, ""], good: Bool[Array, ""]) -> Guard:
    """The Guard after a step of this loss; a step that is not good leaves it as it was."""
    place = guard.filled % RING
    losses = guard.losses.at[place].set(jnp.where(good, loss, guard.losses[place]))
    return Guard(losses, guard.filled + good.astype(jnp.int32))
