"""One transformer layer with its cache: some tokens of each row are added, at the places behind those that the row has.

`one_token` is the CPU's own form of a decode step; everything else is `tokens`, whatever the number of rows and tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from alpaca_jax.decode.sides import beside, product
from alpaca_jax.decode.weights import Fused, Params
from alpaca_jax.model import rope
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.llama import Switches
from alpaca_jax.model.norm import rms_norm

PAGE = 64


class Cache(NamedTuple):
    """The keys and values one layer has seen: one row a sequence, S positions long.

    Paged keys (see `Tuning`) lie transposed in C = S / PAGE pages of P positions: [R, N, C, K, P].
    """

    key_RNSK: Float[Array, "_ N _ K"] | Float[Array, "_ N _ K _"]
    value_RNSK: Float[Array, "_ N _ K"]


class Heads(NamedTuple):
    """Rotated queries and keys, and values, of M = R * T tokens."""

    query_MHK: Float[Array, "M H K"]
    key_MNK: Float[Array, "M N K"]
    value_MNK: Float[Array, "M N K"]


def project(weight_MD: Float[Array, "M D"], x_TD: Float[Array, "T D"]) -> Float[Array, "T M"]:
    """`x_TD` times the transposed weight, with rows multiplied as columns; see `Tuning.columns`."""
    columns_DT = jax.lax.optimization_barrier(x_TD.T)
    return jax.lax.optimization_barrier(jnp.einsum("md,dt->mt", weight_MD, columns_DT)).T


def tokens(
    a: Architecture,
    weights: Fused | Params,
    switches: Switches,
    cache: Cache,
    x_MD: Float[Array, "M D"],
    starts_R: Int[Array, " R"],
    at: rope.Angles,
    which_M: Int[Array, " M"] | None = None,
) -> tuple[Cache, Float[Array, "M D"]]:
    """T consecutive tokens of every row from its start on (M = R * T): the cache with them added, and the residual stream.

    `which_M` is the adapter of each token, where there are several.
    """
    rows, kv_heads, length, head_dim = cache.value_RNSK.shape
    q, k, v = (heads.reshape(rows, -1, *heads.shape[1:]) for heads in _heads(a, weights, switches, x_MD, at, which_M))
    count = q.shape[1]
    # The queries that share a key/value head are the rows of one product: G * T of them.
    q_RNGTK = q.reshape(rows, count, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4) * head_dim**-0.5
    write = jax.vmap(lambda row_NSK, new_TNK, start: jax.lax.dynamic_update_slice(row_NSK, new_TNK.swapaxes(0, 1), (0, start, 0)))
    paged = cache.key_RNSK.ndim == 5
    keys_RNSK = write(cache.key_RNSK.swapaxes(3, 4).reshape(cache.value_RNSK.shape) if paged else cache.key_RNSK, k, starts_R)
    values_RNSK = write(cache.value_RNSK, v, starts_R)
    q_RNMK = q_RNGTK.reshape(rows, kv_heads, -1, head_dim)
    scores_RNMS = jnp.einsum("rnmk,rnsk->rnms", q_RNMK, keys_RNSK, preferred_element_type=jnp.float32)
    scores_RNGTS = scores_RNMS.reshape(*q_RNGTK.shape[:4], -1)
    positions_RT = starts_R[:, None] + jnp.arange(count)
    seen_RTS = _seen(a, switches, length, positions_RT[:, :, None])
    shares_RNGTS = jax.nn.softmax(jnp.where(seen_RTS[:, None, None], scores_RNGTS, -jnp.inf), axis=-1)
    mixed_RNMK = jnp.einsum("rnms,rnsk->rnmk", shares_RNGTS.reshape(scores_RNMS.shape).astype(x_MD.dtype), values_RNSK)
    mixed_RTNGK = mixed_RNMK.reshape(q_RNGTK.shape).transpose(0, 3, 1, 2, 4)
    if paged:
        keys_RNSK = keys_RNSK.reshape(rows, kv_heads, -1, PAGE, head_dim).swapaxes(3, 4)
    return Cache(keys_RNSK, values_RNSK), _finish(a, weights, x_MD, mixed_RTNGK.reshape(x_MD.shape[0], -1), which_M)


def one_token(
    a: Architecture,
    weights: Fused | Params,
    switches: Switches,
    cache: Cache,
    x_RD: Float[Array, "R D"],
    positions_R: Int[Array, " R"],
    at: rope.Angles,
    which_R: Int[Array, " R"] | None = None,
) -> tuple[Cache, Float[Array, "R D"]]:
    """The same for one token of every row and paged keys: T = 1 is left out of the shapes."""
    q_RHK, k_RNK, v_RNK = _heads(a, weights, switches, x_RD, at, which_R)
    rows = jnp.arange(x_RD.shape[0])
    key_RNCKP = cache.key_RNSK.at[rows, :, positions_R // PAGE, :, positions_R % PAGE].set(k_RNK)
    values = cache.value_RNSK.at[rows, :, positions_R].set(v_RNK)
    rows_R, kv_heads, pages, head_dim, _ = key_RNCKP.shape
    q_RN1GK = q_RHK.reshape(rows_R, kv_heads, 1, -1, head_dim) * head_dim**-0.5
    q_RNCGK = jnp.broadcast_to(q_RN1GK, (rows_R, kv_heads, pages, q_RN1GK.shape[3], head_dim))
    scores_RNCGP = jnp.einsum("rncgk,rnckp->rncgp", q_RNCGK, key_RNCKP, preferred_element_type=jnp.float32)
    seen_RCP = _seen(a, switches, pages * PAGE, positions_R[:, None]).reshape(rows_R, pages, PAGE)
    scores_RNCGP = jnp.where(seen_RCP[:, None, :, None], scores_RNCGP, -jnp.inf)
    shares_RNCGP = jnp.exp(scores_RNCGP - jnp.max(scores_RNCGP, axis=(2, 4), keepdims=True))
    total_RNG = jnp.sum(shares_RNCGP, axis=(2, 4))
    shares_RNGS = shares_RNCGP.swapaxes(2, 3).reshape(*total_RNG.shape, -1).astype(values.dtype)
    mixed_RNGK = jnp.einsum("rngs,rnsk->rngk", shares_RNGS, values, preferred_element_type=jnp.float32) / total_RNG[..., None]
    return Cache(key_RNCKP, values), _finish(a, weights, x_RD, mixed_RNGK.reshape(rows_R, -1).astype(x_RD.dtype), which_R)


def _seen(a: Architecture, switches: Switches, length: int, positions: jax.Array) -> jax.Array:
    """bool [..., S]: which places of a cache of `length` the tokens at `positions` [..., 1] look at."""
    places_S = jnp.arange(length)
    seen = places_S <= positions
    if not a.sliding or a.sliding_window is None or length <= a.sliding_window:
        return seen
    near = places_S > positions - a.sliding_window
    return seen & (near if switches.slides is None else near | ~switches.slides)


def _heads(
    a: Architecture, weights: Fused | Params, switches: Switches, x_MD: jax.Array, at: rope.Angles, which_M: jax.Array | None
) -> Heads:
    at = at if switches.turns is None else rope.only_if(switches.turns, at)
    turned = lambda heads_MHK: rope.rotate(heads_MHK[:, None], at)[:, 0]  # noqa: E731
    if isinstance(weights, Fused):
        normed_MD = rms_norm(x_MD, weights.attention_norm, a.norm_eps)
        joint = beside(weights.sides.qkv, normed_MD, project(weights.qkv, normed_MD), which_M)
        joint = joint if weights.qkv_bias is None else joint + weights.qkv_bias
        joint = joint.reshape(x_MD.shape[0], -1, a.head_dim)
        both = joint[:, : a.num_heads + a.num_kv_heads]
        both = turned(both if weights.qk_norm is None else rms_norm(both, weights.qk_norm, a.norm_eps))
        return Heads(both[:, : a.num_heads], both[:, a.num_heads :], joint[:, a.num_heads + a.num_kv_heads :])
    own, normed_MD = weights["attention"], rms_norm(x_MD, weights["attention_norm"]["scale"], a.norm_eps)
    q, k, v = (product(own[name], normed_MD, 1, which_M).reshape(x_MD.shape[0], -1, a.head_dim) for name in ("query", "key", "value"))
    if a.qkv_bias:
        q, k, v = (x + own[f"{name}_bias"].astype(x.dtype) for x, name in ((q, "query"), (k, "key"), (v, "value")))
    if a.qk_norm:
        q, k = (rms_norm(x, own[f"{name}_norm"]["scale"], a.norm_eps) for x, name in ((q, "query"), (k, "key")))
    return Heads(turned(q), turned(k), v)


def _finish(a: Architecture, weights: Fused | Params, x_MD: jax.Array, mixed: jax.Array, which_M: jax.Array | None) -> jax.Array:
    """The attention's output projection and the MLP, both added to the residual stream [M, D]."""
    if isinstance(weights, Fused):
        x_MD = x_MD + beside(weights.sides.out, mixed, project(weights.out, mixed), which_M)
        x_MD = x_MD if weights.out_bias is None else x_MD + weights.out_bias
        normed_MD = rms_norm(x_MD, weights.mlp_norm, a.norm_eps)
        both_MF = beside(weights.sides.gate_up, normed_MD, project(weights.gate_up, normed_MD), which_M)
        gate_MF, up_MF = jnp.split(both_MF if weights.gate_up_bias is None else both_MF + weights.gate_up_bias, 2, axis=1)
        inner_MF = jax.nn.silu(gate_MF) * up_MF
        x_MD = x_MD + beside(weights.sides.down, inner_MF, project(weights.down, inner_MF), which_M)
        return x_MD if weights.down_bias is None else x_MD + weights.down_bias
    cast: Any = lambda weight: weight.astype(x_MD.dtype)  # noqa: E731
    own, mlp = weights["attention"], weights["mlp"]
    x_MD = x_MD + product(own["out"], mixed, 2, which_M)
    x_MD = x_MD + cast(own["out_bias"]) if a.out_bias else x_MD
    normed_MD = rms_norm(x_MD, weights["mlp_norm"]["scale"], a.norm_eps)
    gate_MF, up_MF = (product(mlp[name], normed_MD, 1, which_M) for name in ("gate", "up"))
    if a.mlp_bias:
        gate_MF, up_MF = gate_MF + cast(mlp["gate_bias"]), up_MF + cast(mlp["up_bias"])
    x_MD = x_MD + product(mlp["down"], jax.nn.silu(gate_MF) * up_MF, 1, which_M)
    return x_MD + cast(mlp["down_bias"]) if a.mlp_bias else x_MD
