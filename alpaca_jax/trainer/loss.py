"""Cross-entropy over the vocabulary without ever holding all logits.

The sum over target tokens is taken chunk by chunk along the row; each chunk's gradient is computed in the forward pass, while its logits
are at hand, so that nothing of the vocabulary's width is stored or computed twice (the idea of Liger Kernel's fused loss,
arXiv:2410.10989). Sums are fp32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CHUNK = 128


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def summed_cross_entropy(
    hidden_BTD: Float[Array, "B T D"],
    weight_VD: Float[Array, "V D"],
    targets_BT: Int[Array, "B T"],
    weights_BT: Float[Array, "B T"],
    vocab_size: int,
    chunk: int,
) -> Float[Array, ""]:
    """The fp32 sum over tokens of weight x cross-entropy; rows of `weight_VD` from `vocab_size` on are padding and score nothing."""

    total, _ = cross_entropies(hidden_BTD, weight_VD, targets_BT, weights_BT, vocab_size, chunk)
    return total


def cross_entropies(
    hidden_BTD: Float[Array, "B T D"],
    weight_VD: Float[Array, "V D"],
    targets_BT: Int[Array, "B T"],
    weights_BT: Float[Array, "B T"],
    vocab_size: int,
    chunk: int,
) -> tuple[Float[Array, ""], Float[Array, "B T"]]:
    """The sum of `summed_cross_entropy`, and what each token adds to it: weight x cross-entropy, fp32."""

    def add(total: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        hidden_BCD, targets_BC, weights_BC = part
        losses_BC, _ = _chunk_losses(scores(hidden_BCD, weight_VD, vocab_size), targets_BC, weights_BC)
        return total + losses_BC.sum(), losses_BC

    total, losses = jax.lax.scan(add, jnp.zeros((), jnp.float32), chunks(chunk, hidden_BTD, targets_BT, weights_BT))
    return total, jnp.moveaxis(losses, 0, 1).reshape(targets_BT.shape)


def _forward(hidden_BTD, weight_VD, targets_BT, weights_BT, vocab_size, chunk):  # type: ignore[no-untyped-def]
    def add(carry, part):  # type: ignore[no-untyped-def]
        total, grad_DV = carry
        hidden_BCD, targets_BC, weights_BC = part
        losses_BC, grad_BCV = _chunk_losses(scores(hidden_BCD, weight_VD, vocab_size), targets_BC, weights_BC)
        grad_BCV = grad_BCV.astype(hidden_BCD.dtype)
        grad_BCD = jnp.einsum("bcv,vd->bcd", grad_BCV, weight_VD)
        # In this order the narrow side is the one that is transposed (see model.linear).
        tokens = (((0, 1), (0, 1)), ((), ()))
        grad_DV += jax.lax.dot_general(hidden_BCD, grad_BCV, tokens, preferred_element_type=jnp.float32)
        return (total + losses_BC.sum(), grad_DV), grad_BCD

    start = (jnp.zeros((), jnp.float32), jnp.zeros(weight_VD.shape[::-1], jnp.float32))
    (total, grad_DV), grads = jax.lax.scan(add, start, chunks(chunk, hidden_BTD, targets_BT, weights_BT))
    grad_BTD = jnp.moveaxis(grads, 0, 1).reshape(hidden_BTD.shape)
    return total, (grad_BTD, grad_DV.T.astype(weight_VD.dtype))


def _backward(vocab_size, chunk, grads, upstream):  # type: ignore[no-untyped-def]
    grad_BTD, grad_VD = ((grad.astype(jnp.float32) * upstream).astype(grad.dtype) for grad in grads)
    return grad_BTD, grad_VD, None, None


summed_cross_entropy.defvjp(_forward, _backward)


def chunks(chunk: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays [B, T, ...] as [T / C, B, C, ...]: every device that holds rows takes part in each chunk."""
    length = arrays[0].shape[1]
    size = max(n for n in range(1, min(chunk, length) + 1) if length % n == 0)
    return tuple(jnp.moveaxis(x.reshape(x.shape[0], length // size, size, *x.shape[2:]), 1, 0) for x in arrays)


def scores(hidden_BCD: jax.Array, weight_VD: jax.Array, vocab_size: int) -> jax.Array:
    """The fp32 scores of every word of the vocabulary, minus infinity for the padding rows from `vocab_size` on."""
    scores_BCV = jnp.einsum("bcd,vd->bcv", hidden_BCD, weight_VD, preferred_element_type=jnp.float32)
    if weight_VD.shape[0] == vocab_size:
        return scores_BCV
    return jnp.where(jnp.arange(weight_VD.shape[0]) < vocab_size, scores_BCV, -jnp.inf)


def _chunk_losses(scores_BCV: jax.Array, targets_BC: jax.Array, weights_BC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The weighted losses of the chunk's tokens, and the gradient of their sum with respect to the scores."""
    highest = scores_BCV.max(axis=-1, keepdims=True)
    exponents = jnp.exp(scores_BCV - highest)
    sums = exponents.sum(axis=-1, keepdims=True)
    is_target = jnp.arange(scores_BCV.shape[-1]) == targets_BC[..., None]
    target_score = jnp.take_along_axis(scores_BCV, targets_BC[..., None], axis=-1)[..., 0]
    losses = jnp.log(sums[..., 0]) + highest[..., 0] - target_score
    gradient = (exponents / sums - is_target.astype(jnp.float32)) * weights_BC[..., None]
    return losses * weights_BC, gradient
