"""Causal grouped-query attention over packed rows: a token sees itself and the earlier tokens of its own segment, nothing else.

Queries are processed in blocks, each against the keys up to its own end, which skips about half of the products that a causal mask
would discard. If all layers have a sliding window, keys before a block's window are skipped too. Exact, and the same on every backend.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MOST_BLOCKS = 8  # per row: eight leave 9/16 of the square, and each further one takes longer to compile
SMALLEST_BLOCK = 64


def visible(segments_BT: Int[Array, "B T"], window: int | None = None) -> Bool[Array, "B T T"]:
    """bool [B, T, T]: whether query t may see key s. Segment 0 marks empty slots, which see only each other.

    With a `window` (Beltagy et al. 2020, arXiv:2004.05150) a query sees itself and the window - 1 positions before it.
    """
    length = segments_BT.shape[1]
    causal = jnp.tril(jnp.ones((length, length), dtype=bool))
    if window is not None and window < length:
        causal &= ~jnp.tril(causal, -window)
    return causal & (segments_BT[:, :, None] == segments_BT[:, None, :])


def attend(
    query_BTHK: Float[Array, "B T H K"],
    key_BTNK: Float[Array, "B T N K"],
    value_BTNK: Float[Array, "B T N K"],
    visible_BTT: Bool[Array, "B T T"],
    window: int | None = None,
) -> Float[Array, "B T H K"]:
    """Softmax attention [B, T, H, K] in the inputs' dtype with an fp32 softmax; H query heads share N key/value heads in order.

    `window` promises that `visible_BTT` hides every key before it, so that those keys can be skipped.
    """
    batch, length, heads, head_dim = query_BTHK.shape
    groups = heads // key_BTNK.shape[2]
    query_BNGTK = jnp.moveaxis(query_BTHK.reshape(batch, length, -1, groups, head_dim) * head_dim**-0.5, 1, 3)
    key_BNTK, value_BNTK = (jnp.moveaxis(x_BTNK, 1, 2) for x_BTNK in (key_BTNK, value_BTNK))
    block = max(SMALLEST_BLOCK, -(-length // MOST_BLOCKS))
    mixed = []
    for start in range(0, length, block):
        first, end = 0 if window is None else max(0, start + 1 - window), start + block
        keys, values, seen = key_BNTK[:, :, first:end], value_BNTK[:, :, first:end], visible_BTT[:, start:end, first:end]
        mixed.append(_block(query_BNGTK[:, :, :, start:end], keys, values, seen))
    mixed_BNGTK = mixed[0] if len(mixed) == 1 else jnp.concatenate(mixed, axis=3)
    return jnp.moveaxis(mixed_BNGTK, 3, 1).reshape(query_BTHK.shape)


def _block(query_BNGTK: jax.Array, key_BNSK: jax.Array, value_BNSK: jax.Array, visible_BTS: jax.Array) -> jax.Array:
    """The attention of a block of queries. The queries of a group are multiplied together, as one matrix."""
    batch, kv_heads, groups, length, head_dim = query_BNGTK.shape
    merged_BNMK = query_BNGTK.reshape(batch, kv_heads, groups * length, head_dim)
    scores_BNMS = jnp.einsum("bnmk,bnsk->bnms", merged_BNMK, key_BNSK, preferred_element_type=jnp.float32)
    scores_BNGTS = scores_BNMS.reshape(batch, kv_heads, groups, length, -1)
    scores_BNGTS = jnp.where(visible_BTS[:, None, None], scores_BNGTS, jnp.finfo(jnp.float32).min)
    shares_BNGTS = jax.nn.softmax(scores_BNGTS, axis=-1).astype(value_BNSK.dtype)
    mixed_BNMK = jnp.einsum("bnms,bnsk->bnmk", shares_BNGTS.reshape(scores_BNMS.shape), value_BNSK)
    return mixed_BNMK.reshape(query_BNGTK.shape)
