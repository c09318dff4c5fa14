"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), in the half-split layout that Hugging Face checkpoints use."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Angles(NamedTuple):
    """Cosine and sine of every position's angles, each fp32 [B, T, 1, K/2]."""

    cos: jax.Array
    sin: jax.Array


def angles(positions_BT: jax.Array, head_dim: int, theta: float) -> Angles:
    """The rotation of each position: computed once per forward pass and shared by every layer."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * frequency
    return Angles(jnp.cos(angle), jnp.sin(angle))


def rotate(x_BTHK: jax.Array, at: Angles) -> jax.Array:
    """`x_BTHK` with dimension i of each head rotated against dimension i + K/2; same shape and dtype."""
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * at.cos - second * at.sin, second * at.cos + first * at.sin], axis=-1).astype(x_BTHK.dtype)
