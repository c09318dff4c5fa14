"""One transformer layer with its cache, over one token of many sequences (`decode`) or many tokens of a few (`prefill`).

A few layers are compiled together and called as often as it takes: the same program for all L would compile ten times as long, and the
cache needs a new one at every size.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alpaca_jax.decode.weights import LayerWeights
from alpaca_jax.model import rope
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.norm import rms_norm

PAGE = 64


class Cache(NamedTuple):
    """The keys and values one layer has seen: one row a sequence, S positions long.

    Keys lie transposed in C = S / PAGE pages of P positions: the product with few queries is then twice as fast on a CPU.
    """

    key_RNCKP: jax.Array
    value_RNSK: jax.Array


def empty(architecture: Architecture, rows: int, length: int, dtype: Any) -> Cache:
    """A cache of zeros; `length` is a multiple of PAGE."""
    a = architecture
    keys = jnp.zeros((rows, a.num_kv_heads, length // PAGE, a.head_dim, PAGE), dtype)
    return Cache(keys, jnp.zeros((rows, a.num_kv_heads, length, a.head_dim), dtype))


@partial(jax.jit, static_argnums=(1, 2))
def resize(cache: Cache, rows: int, length: int) -> Cache:
    """The first `rows` rows and `length` positions (a multiple of PAGE) of a cache, zeros beyond what it has."""

    def cut(leaf: jax.Array, size: int) -> jax.Array:
        kept = leaf[:rows, :, :size]
        return jnp.pad(kept, [(0, rows - kept.shape[0]), (0, 0), (0, size - kept.shape[2])] + [(0, 0)] * (leaf.ndim - 3))

    return Cache(cut(cache.key_RNCKP, length // PAGE), cut(cache.value_RNSK, length))


@jax.jit
def take(cache: Cache, rows_Q: jax.Array) -> Cache:
    """A copy of some rows."""
    return jax.tree.map(lambda leaf: leaf[rows_Q], cache)


@partial(jax.jit, donate_argnums=0)
def put(cache: Cache, own: Cache, rows_Q: jax.Array) -> Cache:
    """The cache with some rows replaced by `own`; one whose number is beyond the last row is dropped."""
    return jax.tree.map(lambda leaf, new: leaf.at[rows_Q].set(new, mode="drop"), cache, own)


def project(weight_MD: jax.Array, x_TD: jax.Array) -> jax.Array:
    """`x_TD` times the transposed weight, [T, M].

    Rows are multiplied as columns: with few of them that is up to twice as fast on a CPU. The barriers keep XLA from undoing it.
    """
    columns_DT = jax.lax.optimization_barrier(x_TD.T)
    return jax.lax.optimization_barrier(jnp.einsum("md,dt->mt", weight_MD, columns_DT)).T


@partial(jax.jit, static_argnames="architecture", donate_argnames="caches")
def decode(
    architecture: Architecture,
    layers: list[LayerWeights],
    caches: list[Cache],
    x_RD: jax.Array,
    positions_R: jax.Array,
    at: rope.Angles,
) -> tuple[list[Cache], jax.Array]:
    """One token of every row at its own position: the caches with it added, and the residual stream [R, D] after these layers."""
    caches = list(caches)
    for index, weights in enumerate(layers):
        caches[index], x_RD = _decode(architecture, weights, caches[index], x_RD, positions_R, at)
    return caches, x_RD


def _decode(
    architecture: Architecture, weights: LayerWeights, cache: Cache, x_RD: jax.Array, positions_R: jax.Array, at: rope.Angles
) -> tuple[Cache, jax.Array]:
    # Rows are the batch and each holds one token: T = 1 is left out of the shapes.
    q_RHK, k_RNK, v_RNK = _heads(architecture, weights, x_RD, at)
    rows = jnp.arange(x_RD.shape[0])
    keys = cache.key_RNCKP.at[rows, :, positions_R // PAGE, :, positions_R % PAGE].set(k_RNK)
    values = cache.value_RNSK.at[rows, :, positions_R].set(v_RNK)
    rows_R, kv_heads, pages, head_dim, _ = keys.shape
    q_RN1GK = q_RHK.reshape(rows_R, kv_heads, 1, -1, head_dim) * head_dim**-0.5
    q_RNCGK = jnp.broadcast_to(q_RN1GK, (rows_R, kv_heads, pages, q_RN1GK.shape[3], head_dim))
    scores_RNCGP = jnp.einsum("rncgk,rnckp->rncgp", q_RNCGK, keys, preferred_element_type=jnp.float32)
    seen_RCP = _seen(architecture, weights, pages * PAGE, positions_R[:, None]).reshape(rows_R, pages, PAGE)
    scores_RNCGP = jnp.where(seen_RCP[:, None, :, None], scores_RNCGP, -jnp.inf)
    shares_RNCGP = jnp.exp(scores_RNCGP - jnp.max(scores_RNCGP, axis=(2, 4), keepdims=True))
    total_RNG = jnp.sum(shares_RNCGP, axis=(2, 4))
    shares_RNGS = shares_RNCGP.swapaxes(2, 3).reshape(*total_RNG.shape, -1).astype(values.dtype)
    mixed_RNGK = jnp.einsum("rngs,rnsk->rngk", shares_RNGS, values, preferred_element_type=jnp.float32) / total_RNG[..., None]
    return Cache(keys, values), _finish(architecture, weights, x_RD, mixed_RNGK.reshape(rows_R, -1).astype(x_RD.dtype))


@partial(jax.jit, static_argnames="architecture", donate_argnames="cache")
def prefill(
    architecture: Architecture, weights: LayerWeights, cache: Cache, x_MD: jax.Array, starts_R: jax.Array, at: rope.Angles
) -> tuple[Cache, jax.Array]:
    """T consecutive tokens of every row from its start on (M = R * T): the cache with them added, and the residual stream [M, D]."""
    rows, kv_heads, pages, head_dim, _ = cache.key_RNCKP.shape
    q, k, v = (heads.reshape(rows, -1, *heads.shape[1:]) for heads in _heads(architecture, weights, x_MD, at))
    tokens = q.shape[1]
    # The queries that share a key/value head are the rows of one product: G * T of them.
    q_RNGTK = q.reshape(rows, tokens, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4) * head_dim**-0.5
    write = jax.vmap(lambda row_NSK, new_TNK, start: jax.lax.dynamic_update_slice(row_NSK, new_TNK.swapaxes(0, 1), (0, start, 0)))
    keys_RNSK = write(cache.key_RNCKP.swapaxes(3, 4).reshape(cache.value_RNSK.shape), k, starts_R)
    values_RNSK = write(cache.value_RNSK, v, starts_R)
    q_RNMK = q_RNGTK.reshape(rows, kv_heads, -1, head_dim)
    scores_RNMS = jnp.einsum("rnmk,rnsk->rnms", q_RNMK, keys_RNSK, preferred_element_type=jnp.float32)
    scores_RNGTS = scores_RNMS.reshape(*q_RNGTK.shape[:4], -1)
    positions_RT = starts_R[:, None] + jnp.arange(tokens)
    seen_RTS = _seen(architecture, weights, pages * PAGE, positions_RT[:, :, None])
    shares_RNGTS = jax.nn.softmax(jnp.where(seen_RTS[:, None, None], scores_RNGTS, -jnp.inf), axis=-1)
    mixed_RNMK = jnp.einsum("rnms,rnsk->rnmk", shares_RNGTS.reshape(scores_RNMS.shape).astype(x_MD.dtype), values_RNSK)
    mixed_RTNGK = mixed_RNMK.reshape(q_RNGTK.shape).transpose(0, 3, 1, 2, 4)
    keys_RNCKP = keys_RNSK.reshape(rows, kv_heads, pages, PAGE, head_dim).swapaxes(3, 4)
    return Cache(keys_RNCKP, values_RNSK), _finish(architecture, weights, x_MD, mixed_RTNGK.reshape(x_MD.shape[0], -1))


def _seen(a: Architecture, weights: LayerWeights, length: int, positions: jax.Array) -> jax.Array:
    """bool [..., S]: which places of a cache of `length` the tokens at `positions` [..., 1] look at."""
    places_S = jnp.arange(length)
    seen = places_S <= positions
    if not a.sliding or a.sliding_window is None or length <= a.sliding_window:
        return seen
    near = places_S > positions - a.sliding_window
    return seen & (near if weights.switches.slides is None else near | ~weights.switches.slides)


def _heads(a: Architecture, weights: LayerWeights, x_TD: jax.Array, at: rope.Angles) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotated queries [T, H, K], rotated keys and values [T, N, K]."""
    normed_TD = rms_norm(x_TD, weights.attention_norm, a.norm_eps)
    joint = project(weights.qkv, normed_TD)
    joint = joint if weights.qkv_bias is None else joint + weights.qkv_bias
    joint = joint.reshape(x_TD.shape[0], -1, a.head_dim)
    turned = joint[:, : a.num_heads + a.num_kv_heads]
    turned = turned if weights.qk_norm is None else rms_norm(turned, weights.qk_norm, a.norm_eps)
    at = at if weights.switches.turns is None else rope.only_if(weights.switches.turns, at)
    turned = rope.rotate(turned[:, None], at)[:, 0]
    return turned[:, : a.num_heads], turned[:, a.num_heads :], joint[:, a.num_heads + a.num_kv_heads :]


def _finish(a: Architecture, weights: LayerWeights, x_TD: jax.Array, mixed: jax.Array) -> jax.Array:
    """The attention's output projection and the MLP, both added to the residual stream [T, D]."""
    x_TD = x_TD + project(weights.out, mixed)
    x_TD = x_TD if weights.out_bias is None else x_TD + weights.out_bias
    gate_TF, up_TF = jnp.split(project(weights.gate_up, rms_norm(x_TD, weights.mlp_norm, a.norm_eps)), 2, axis=1)
    return x_TD + project(weights.down, jax.nn.silu(gate_TF) * up_TF)
