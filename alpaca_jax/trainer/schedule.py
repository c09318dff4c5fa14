"""The numbers of an optimizer that a compiled step takes as arguments: runs that differ in nothing else share one program.

They are the learning rate with its warm-up, decay and number of steps, the clipping norm and the weight decay. So a sweep of rates
compiles once.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Scalar = Any  # an fp32 or int32 scalar: numpy's, or JAX's inside a step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Numbers:
    """Scalars, fp32 but for the two counts of steps.

    Each is what XLA makes of the constants in optax's schedules (a division by a constant is a product with its reciprocal), so that the
    rates are those of a program with constants, bit for bit.
    """

    peak: Scalar
    end: Scalar  # peak * final
    fall: Scalar  # peak - end
    final: Scalar  # the last rate as a share of the peak
    above: Scalar  # 1 - final
    warmup_steps: Scalar  # int32
    per_warmup_step: Scalar  # 1 / warmup_steps
    decay_steps: Scalar  # int32
    per_decay_step: Scalar  # 1 / decay_steps
    angle: Scalar  # pi / decay_steps
    clip: Scalar
    weight_decay: Scalar


def numbers(rate: float, warmup: float, final: float, steps: int, clip: float | None, weight_decay: float) -> Numbers:
    """The Numbers of a run of `steps` steps that warms up for ceil(warmup * steps) of them."""
    fp32, end = np.float32, rate * final
    warmup_steps = int(-(-warmup * steps // 1))
    decay_steps = max(1, steps - warmup_steps)
    each = fp32(1) / fp32(decay_steps)
    return Numbers(
        peak=fp32(rate),
        end=fp32(end),
        fall=fp32(rate - end),
        final=fp32(final),
        above=fp32(1 - final),
        warmup_steps=np.int32(warmup_steps),
        per_warmup_step=fp32(1) / fp32(max(1, warmup_steps)),
        decay_steps=np.int32(decay_steps),
        per_decay_step=each,
        angle=fp32(np.pi) * each,
        clip=fp32(np.inf if clip is None else clip),
        weight_decay=fp32(weight_decay),
    )


def learning_rate(kind: str, n: Numbers, count: Any) -> jax.Array:
    """The fp32 learning rate of the update after `count` others: a linear warm-up, then the schedule down to the final share."""
    count = jnp.asarray(count, jnp.int32)
    since = count - n.warmup_steps
    if kind == "cosine":
        taken = jnp.minimum(since.astype(jnp.float32), n.decay_steps.astype(jnp.float32))
        decayed = n.peak * (n.above * (0.5 * (1.0 + jnp.cos(taken * n.angle))) + n.final)
    elif kind == "linear":
        decayed = n.fall * (1.0 - jnp.clip(since, 0, n.decay_steps).astype(jnp.float32) * n.per_decay_step) + n.end
    else:
        decayed = n.peak
    warm = (0.0 - n.peak) * (1.0 - jnp.clip(count, 0, n.warmup_steps).astype(jnp.float32) * n.per_warmup_step) + n.peak
    return jnp.where(count < n.warmup_steps, warm, decayed)


# What the logs report is computed as a step computes it: in one program.
reported = functools.partial(jax.jit, static_argnums=0)(learning_rate)
