"""The product with a weight, whose gradient is computed without a transposed copy of a wide array.

A weight's gradient is x^T g or (g^T x)^T, and XLA's CPU backend copies the transposed factor into a new layout before it multiplies. By
default it chose the MLP's wide side, along with the arithmetic that produces it: a fifth of a training step of SmolLM2 on two cores
(24 November 2026). Here it is always the narrower side. On other backends both cost the same.
"""

import jax
from jaxtyping import Array, Float

_TOKENS = (((0, 1), (0, 1)), ((), ()))  # contract batch and position


@jax.custom_vjp
def linear(x_BTI: Float[Array, "B T I"], weight_IO: Float[Array, "I O"]) -> Float[Array, "B T O"]:
    """`x_BTI @ weight_IO`: [B, T, O], in the inputs' dtype."""
    return x_BTI @ weight_IO


def _forward(x_BTI: jax.Array, weight_IO: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x_BTI @ weight_IO, (x_BTI, weight_IO)


def _backward(residuals: tuple[jax.Array, jax.Array], grad_BTO: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_BTI, weight_IO = residuals
    grad_BTI = jax.lax.dot_general(grad_BTO, weight_IO, (((2,), (1,)), ((), ())))
    if x_BTI.shape[-1] <= grad_BTO.shape[-1]:
        return grad_BTI, jax.lax.dot_general(x_BTI, grad_BTO, _TOKENS)
    return grad_BTI, jax.lax.dot_general(grad_BTO, x_BTI, _TOKENS).T


linear.defvjp(_forward, _backward)


def to_heads(x_BTD: Float[Array, "B T D"], weight_DHK: Float[Array, "D H K"]) -> Float[Array, "B T H K"]:
    """The product [B, T, H, K] with a weight whose output is split into heads."""
    features, heads, head_dim = weight_DHK.shape
    return linear(x_BTD, weight_DHK.reshape(features, heads * head_dim)).reshape(*x_BTD.shape[:2], heads, head_dim)


def from_heads(x_BTHK: Float[Array, "B T H K"], weight_HKD: Float[Array, "H K D"]) -> Float[Array, "B T D"]:
    """The product [B, T, D] with a weight whose input is split into heads."""
    heads, head_dim, features = weight_HKD.shape
    return linear(x_BTHK.reshape(*x_BTHK.shape[:2], heads * head_dim), weight_HKD.reshape(heads * head_dim, features))
