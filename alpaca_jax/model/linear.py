"""The product with a weight, whose gradient is computed without a transposed copy of a wide array.

A weight's gradient is x^T g or (g^T x)^T, and XLA's CPU backend copies the transposed factor into a new layout before it multiplies. By
default it chose the MLP's wide side, along with the arithmetic that produces it: a fifth of a training step of SmolLM2 on two cores
(24 November 2026). Here it is always the narrower side. On other backends both cost the same.
"""

from typing import Any

import jax
from jaxtyping import Array, Float

from alpaca_jax.model import nf4
from alpaca_jax.model.weight import LowRank, as_matrix

_TOKENS = (((0, 1), (0, 1)), ((), ()))  # contract batch and position


def linear(x_BTI: Float[Array, "B T I"], weight_IO: Any) -> Float[Array, "B T O"]:
    """`x_BTI @ weight_IO`: [B, T, O], in the inputs' dtype; the weight is an array or any other of `model.weight`."""
    if isinstance(weight_IO, LowRank):
        return _beside(x_BTI, weight_IO)
    return nf4.product(x_BTI, weight_IO) if isinstance(weight_IO, nf4.Quantized) else _product(x_BTI, weight_IO)


def _beside(x_BTI: jax.Array, weight: LowRank) -> jax.Array:
    """The product with a changed weight, whose change is never multiplied out: the frozen part has no gradient, so it costs 4 N FLOP."""
    narrow_BTR = _product(weight.dropped(x_BTI), weight.down.astype(x_BTI.dtype))
    change_BTO = _product(narrow_BTR, (weight.up * weight.scale).astype(x_BTI.dtype))
    out_BTO = linear(x_BTI, weight.base) + change_BTO
    return out_BTO if weight.magnitude is None else out_BTO * weight.factor().astype(x_BTI.dtype)


@jax.custom_vjp
def _product(x_BTI: jax.Array, weight_IO: jax.Array) -> jax.Array:
    return x_BTI @ weight_IO


def _forward(x_BTI: jax.Array, weight_IO: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x_BTI @ weight_IO, (x_BTI, weight_IO)


def _backward(residuals: tuple[jax.Array, jax.Array], grad_BTO: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_BTI, weight_IO = residuals
    grad_BTI = jax.lax.dot_general(grad_BTO, weight_IO, (((2,), (1,)), ((), ())))
    if x_BTI.shape[-1] <= grad_BTO.shape[-1]:
        return grad_BTI, jax.lax.dot_general(x_BTI, grad_BTO, _TOKENS)
    return grad_BTI, jax.lax.dot_general(grad_BTO, x_BTI, _TOKENS).T


_product.defvjp(_forward, _backward)


def to_heads(x_BTD: Float[Array, "B T D"], weight_DHK: Any) -> Float[Array, "B T H K"]:
    """The product [B, T, H, K] with a weight [D, H, K], whose output is split into heads."""
    _, heads, head_dim = weight_DHK.shape
    return linear(x_BTD, as_matrix(weight_DHK, 1)).reshape(*x_BTD.shape[:2], heads, head_dim)


def from_heads(x_BTHK: Float[Array, "B T H K"], weight_HKD: Any) -> Float[Array, "B T D"]:
    """The product [B, T, D] with a weight [H, K, D], whose input is split into heads."""
    return linear(x_BTHK.reshape(*x_BTHK.shape[:2], -1), as_matrix(weight_HKD, 2))
