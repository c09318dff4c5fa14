"""Causal grouped-query attention over packed rows: a token sees the earlier tokens of its own segment and nothing else."""

import jax
import jax.numpy as jnp


def visible(segments_BT: jax.Array) -> jax.Array:
    """bool [B, T, T]: may query t look at key s? Segment 0 marks empty slots, which see only each other."""
    length = segments_BT.shape[1]
    causal = jnp.tril(jnp.ones((length, length), dtype=bool))
    return causal & (segments_BT[:, :, None] == segments_BT[:, None, :])


def attend(query_BTHK: jax.Array, key_BTNK: jax.Array, value_BTNK: jax.Array, visible_BTT: jax.Array) -> jax.Array:
    """Softmax attention [B, T, H, K] in the inputs' dtype with an fp32 softmax; H query heads share N key/value heads in order."""
    batch, length, heads, head_dim = query_BTHK.shape
    kv_heads = key_BTNK.shape[2]
    query = query_BTHK.reshape(batch, length, kv_heads, heads // kv_heads, head_dim) * head_dim**-0.5
    scores = jnp.einsum("btngk,bsnk->bngts", query, key_BTNK, preferred_element_type=jnp.float32)
    scores = jnp.where(visible_BTT[:, None, None], scores, jnp.finfo(jnp.float32).min)
    shares = jax.nn.softmax(scores, axis=-1).astype(value_BTNK.dtype)
    return jnp.einsum("bngts,bsnk->btngk", shares, value_BTNK).reshape(batch, length, heads, head_dim)
