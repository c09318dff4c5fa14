"""Weights that are more than an array: a frozen one with a low-rank change beside it, or in four bits (`model.nf4`).

LoRA: Hu et al. 2021, arXiv:2106.09685. DoRA: Liu et al. 2024, arXiv:2402.09353. `model.linear` multiplies with any of them, so that a
model runs on params whose leaves are of any of these types.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from alpaca_jax.model.nf4 import Quantized

Axes = tuple[str, ...]
Constrain = Callable[[jax.Array, Axes], jax.Array]
RANK = "lora"  # the logical axis between `down` and `up`, which no mesh shards


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank:
    """The weight W + scale * A B; with a magnitude m (DoRA) m * (W + scale * A B) / |W + scale * A B|, the norm over each output's inputs.

    Each array may have a leading `layers` axis, written L; `scale` has that axis alone. Ranks may differ by layer: the columns of A and
    the rows of B beyond a layer's own rank are zero, and so are their gradients.
    """

    base: Any  # an array [L, *inputs, *outputs], or a Quantized
    down: jax.Array  # A: [L, *inputs, R]
    up: jax.Array  # B: [L, R, *outputs]
    scale: jax.Array  # [L]; 0 where a layer has no change
    magnitude: jax.Array | None = None  # m: [L, *outputs]
    key: jax.Array | None = None  # [L]: of the dropout's masks; None for no dropout
    dropout: float = field(default=0.0, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the dense weight."""
        return self.base.shape

    @property
    def inputs(self) -> int:
        """The number of dimensions, after `layers`, that a product sums over."""
        return self.down.ndim - 1 - self.scale.ndim

    def factor(self) -> jax.Array:
        """DoRA's factor [L, *outputs], float32; 1 in a layer without a change. The norm counts as a constant, as in the paper."""
        assert self.magnitude is not None
        changed = _changed(self)
        first = self.scale.ndim
        norm = jnp.sqrt(jnp.square(changed).sum(range(first, first + self.inputs)))
        has_change = self.scale.reshape(self.scale.shape + (1,) * (norm.ndim - first)) != 0
        return jnp.where(has_change, self.magnitude / jax.lax.stop_gradient(norm), 1.0)

    def dropped(self, x: jax.Array) -> jax.Array:
        """`x` as it enters A: some of its values zero and the others larger, where there is a key; the same ones for the same key."""
        if self.key is None:
            return x
        kept = jax.random.bernoulli(self.key, 1 - self.dropout, x.shape)
        return jnp.where(kept, x / (1 - self.dropout), jnp.zeros((), x.dtype))


def dense(weight: Any, dtype: Any) -> jax.Array:
    """The weight, of any kind, as one array in `dtype`; a change is added in float32."""
    if isinstance(weight, Quantized):
        return weight.dense(dtype)
    if not isinstance(weight, LowRank):
        return weight.astype(dtype)
    changed = _changed(weight)
    if weight.magnitude is not None:
        factor = weight.factor()
        first = weight.scale.ndim
        changed = changed * jnp.expand_dims(factor, range(first, first + weight.inputs))
    return changed.astype(dtype)


def _changed(weight: LowRank) -> jax.Array:
    """W + scale * A B in float32, before DoRA's norm."""
    lead, base = weight.scale.shape, dense(weight.base, jnp.float32)
    rank = weight.down.shape[-1]
    down = weight.down.astype(jnp.float32).reshape(*lead, -1, rank) * weight.scale[..., None, None]
    return base + (down @ weight.up.astype(jnp.float32).reshape(*lead, rank, -1)).reshape(base.shape)


def as_matrix(weight: Any, inputs: int) -> Any:
    """One layer's weight as a matrix [I, O]: its first `inputs` dimensions are merged into one, and so are the others."""
    if isinstance(weight, Quantized):
        return replace(weight, inputs=(math.prod(weight.inputs),), outputs=(math.prod(weight.outputs),))
    if not isinstance(weight, LowRank):
        return weight.reshape(math.prod(weight.shape[:inputs]), -1)
    rank = weight.down.shape[-1]
    return LowRank(
        as_matrix(weight.base, inputs),
        weight.down.reshape(-1, rank),
        weight.up.reshape(rank, -1),
        weight.scale,
        None if weight.magnitude is None else weight.magnitude.reshape(-1),
        weight.key,
        weight.dropout,
    )


def placed(weight: Any, dtype: Any, constrain: Constrain, axes: Axes) -> Any:
    """One layer's weight as a computation needs it: what is frozen in `dtype`, every array sharded by `constrain` along its `axes`."""
    if isinstance(weight, Quantized):
        matrix = (axes[len(weight.inputs)], axes[0])  # a merged dimension is sharded as its first one
        return replace(weight, codes=constrain(weight.codes, matrix), maxima=constrain(weight.maxima, matrix))
    if not isinstance(weight, LowRank):
        return constrain(weight.astype(dtype), axes)
    inputs, outputs = axes[: weight.inputs], axes[weight.inputs :]
    return LowRank(
        placed(weight.base, dtype, constrain, axes),
        constrain(weight.down, (*inputs, RANK)),
        constrain(weight.up, (RANK, *outputs)),
        weight.scale,
        None if weight.magnitude is None else constrain(weight.magnitude, outputs),
        weight.key,
        weight.dropout,
    )
