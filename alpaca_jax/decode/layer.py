"""One transformer layer with its cache. It is compiled alone and called once a layer: a new shape costs one layer's compilation, not L."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alpaca_jax.decode.weights import LayerWeights
from alpaca_jax.model import rope
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.norm import rms_norm


class Cache(NamedTuple):
    """The keys and values one layer has seen: one row a sequence, S positions long."""

    key_RNSK: jax.Array
    value_RNSK: jax.Array


def project(weight_MD: jax.Array, x_TD: jax.Array) -> jax.Array:
    """`x_TD` times the transposed weight, [T, M].

    Computed as weight times columns: on a CPU that product is up to twice as fast for few rows. The barrier keeps XLA from turning it
    back into the usual one.
    """
    return jax.lax.optimization_barrier(jnp.einsum("md,td->mt", weight_MD, x_TD)).T


@partial(jax.jit, static_argnames="architecture", donate_argnames="cache")
def decode(
    architecture: Architecture, weights: LayerWeights, cache: Cache, x_RD: jax.Array, positions_R: jax.Array
) -> tuple[Cache, jax.Array]:
    """One token of every row at its own position: the cache with it added, and the residual stream [R, D] after this layer."""
    a = architecture
    # Rows are the batch and each holds one token: T = 1 is left out of the shapes.
    q_RHK, k_RNK, v_RNK = _heads(a, weights, x_RD, positions_R)
    write = jax.vmap(lambda row_NSK, new_NK, at: jax.lax.dynamic_update_slice(row_NSK, new_NK[:, None], (0, at, 0)))
    cache = Cache(write(cache.key_RNSK, k_RNK, positions_R), write(cache.value_RNSK, v_RNK, positions_R))
    q_RNGK = q_RHK.reshape(*k_RNK.shape[:2], -1, a.head_dim)
    # Keys times queries, not queries times keys: a group of 3 queries is too thin a left side for the CPU's product.
    scores_RNSG = jnp.einsum("rnsk,rngk->rnsg", cache.key_RNSK, q_RNGK, preferred_element_type=jnp.float32)
    scores_RNGS = jax.lax.optimization_barrier(scores_RNSG).swapaxes(2, 3) * a.head_dim**-0.5
    seen_RS = jnp.arange(cache.key_RNSK.shape[2]) <= positions_R[:, None]
    shares_RNGS = jax.nn.softmax(jnp.where(seen_RS[:, None, None], scores_RNGS, -jnp.inf), axis=-1)
    mixed_RNGK = jnp.einsum("rngs,rnsk->rngk", shares_RNGS.astype(x_RD.dtype), cache.value_RNSK)
    return cache, _finish(a, weights, x_RD, mixed_RNGK.reshape(x_RD.shape[0], -1))


@partial(jax.jit, static_argnames="architecture", donate_argnames="cache")
def prefill(architecture: Architecture, weights: LayerWeights, cache: Cache, x_TD: jax.Array, start: jax.Array) -> tuple[Cache, jax.Array]:
    """T tokens of one sequence from position `start` on: its cache (R = 1) with them added, and the residual stream [T, D]."""
    a = architecture
    positions_T = start + jnp.arange(x_TD.shape[0])
    q_THK, k_TNK, v_TNK = _heads(a, weights, x_TD, positions_T)
    write = lambda row_RNSK, new_TNK: jax.lax.dynamic_update_slice(row_RNSK, new_TNK.swapaxes(0, 1)[None], (0, 0, start, 0))  # noqa: E731
    cache = Cache(write(cache.key_RNSK, k_TNK), write(cache.value_RNSK, v_TNK))
    q_TNGK = q_THK.reshape(*k_TNK.shape[:2], -1, a.head_dim) * a.head_dim**-0.5
    scores_NGTS = jnp.einsum("tngk,nsk->ngts", q_TNGK, cache.key_RNSK[0], preferred_element_type=jnp.float32)
    seen_TS = jnp.arange(cache.key_RNSK.shape[2]) <= positions_T[:, None]
    shares_NGTS = jax.nn.softmax(jnp.where(seen_TS, scores_NGTS, -jnp.inf), axis=-1)
    mixed_TNGK = jnp.einsum("ngts,nsk->tngk", shares_NGTS.astype(x_TD.dtype), cache.value_RNSK[0])
    return cache, _finish(a, weights, x_TD, mixed_TNGK.reshape(x_TD.shape[0], -1))


def _heads(a: Architecture, weights: LayerWeights, x_TD: jax.Array, positions_T: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotated queries [T, H, K], rotated keys and values [T, N, K]."""
    normed_TD = rms_norm(x_TD, weights.attention_norm, a.norm_eps)
    joint = project(weights.qkv, normed_TD).reshape(x_TD.shape[0], -1, a.head_dim)
    at = rope.angles(positions_T[:, None], a.head_dim, a.rope_theta)
    rotated = rope.rotate(joint[:, None, : a.num_heads + a.num_kv_heads], at)[:, 0]
    return rotated[:, : a.num_heads], rotated[:, a.num_heads :], joint[:, a.num_heads + a.num_kv_heads :]


def _finish(a: Architecture, weights: LayerWeights, x_TD: jax.Array, mixed: jax.Array) -> jax.Array:
    """The attention's output projection and the MLP, both added to the residual stream [T, D]."""
    x_TD = x_TD + project(weights.out, mixed)
    gate_up = project(weights.gate_up, rms_norm(x_TD, weights.mlp_norm, a.norm_eps))
    gate, up = jnp.split(gate_up, 2, axis=1)
    return x_TD + project(weights.down, jax.nn.silu(gate) * up)
