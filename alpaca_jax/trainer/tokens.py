"""The log-probability of each token without ever holding all logits, for losses that are not a sum over tokens.

The gradient of a token's log-probability with respect to its own hidden state needs the token's scores, which are at hand in the forward
pass. It is taken there, for a cotangent of one, and scaled in the backward pass: exact for any function of the log-probabilities. The
output matrix gets its gradient in a second chunked pass, which XLA drops where the matrix does not train. All sums are fp32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from alpaca_jax.trainer.loss import CHUNK, chunks, scores


def token_logps(
    hidden_BTD: Float[Array, "B T D"],
    weight_VD: Float[Array, "V D"],
    targets_BT: Int[Array, "B T"],
    vocab_size: int,
    *,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> Float[Array, "B T"]:
    """The fp32 log-probability in nats of each target under softmax(scores / temperature).

    Rows of `weight_VD` from `vocab_size` on are padding and score nothing. Where no gradient is taken, nothing else is computed.
    """
    return _logps(hidden_BTD, weight_VD, targets_BT, vocab_size, temperature, chunk)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _logps(
    hidden_BTD: jax.Array, weight_VD: jax.Array, targets_BT: jax.Array, vocab_size: int, temperature: float, chunk: int
) -> jax.Array:
    def one(_: None, part: tuple[jax.Array, ...]) -> tuple[None, jax.Array]:
        hidden_BCD, targets_BC = part
        scores_BCV = scores(hidden_BCD, weight_VD, vocab_size) / temperature
        return None, _target(scores_BCV, targets_BC) - jax.nn.logsumexp(scores_BCV, axis=-1)

    return _rows(jax.lax.scan(one, None, chunks(chunk, hidden_BTD, targets_BT))[1])


def _forward(hidden_BTD, weight_VD, targets_BT, vocab_size, temperature, chunk):  # type: ignore[no-untyped-def]
    def one(_, part):  # type: ignore[no-untyped-def]
        hidden_BCD, targets_BC = part
        scores_BCV = scores(hidden_BCD, weight_VD, vocab_size) / temperature
        normalizer_BC = jax.nn.logsumexp(scores_BCV, axis=-1)
        slope_BCV = _slope(scores_BCV, normalizer_BC, targets_BC) / temperature
        grad_BCD = jnp.einsum("bcv,vd->bcd", slope_BCV.astype(hidden_BCD.dtype), weight_VD)
        return None, (_target(scores_BCV, targets_BC) - normalizer_BC, normalizer_BC, grad_BCD)

    parts = jax.lax.scan(one, None, chunks(chunk, hidden_BTD, targets_BT))[1]
    logps_BT, normalizer_BT, grad_BTD = (_rows(part) for part in parts)
    return logps_BT, (grad_BTD, normalizer_BT, hidden_BTD, weight_VD, targets_BT)


def _backward(vocab_size, temperature, chunk, kept, upstream_BT):  # type: ignore[no-untyped-def]
    grad_BTD, normalizer_BT, hidden_BTD, weight_VD, targets_BT = kept

    def add(grad_DV, part):  # type: ignore[no-untyped-def]
        hidden_BCD, targets_BC, normalizer_BC, upstream_BC = part
        scores_BCV = scores(hidden_BCD, weight_VD, vocab_size) / temperature
        slope_BCV = _slope(scores_BCV, normalizer_BC, targets_BC) * (upstream_BC / temperature)[..., None]
        tokens = (((0, 1), (0, 1)), ((), ()))
        product = jax.lax.dot_general(hidden_BCD, slope_BCV.astype(hidden_BCD.dtype), tokens, preferred_element_type=jnp.float32)
        return grad_DV + product, None

    zeros_DV = jnp.zeros(weight_VD.shape[::-1], jnp.float32)
    grad_DV, _ = jax.lax.scan(add, zeros_DV, chunks(chunk, hidden_BTD, targets_BT, normalizer_BT, upstream_BT))
    of_hidden_BTD = (grad_BTD.astype(jnp.float32) * upstream_BT[..., None]).astype(grad_BTD.dtype)
    return of_hidden_BTD, grad_DV.T.astype(weight_VD.dtype), None


_logps.defvjp(_forward, _backward)


def _target(scores_BCV: jax.Array, targets_BC: jax.Array) -> jax.Array:
    return jnp.take_along_axis(scores_BCV, targets_BC[..., None], axis=-1)[..., 0]


def _slope(scores_BCV: jax.Array, normalizer_BC: jax.Array, targets_BC: jax.Array) -> jax.Array:
    """The derivative of each target's log-probability with respect to the scores."""
    is_target = jnp.arange(scores_BCV.shape[-1]) == targets_BC[..., None]
    return is_target.astype(jnp.float32) - jnp.exp(scores_BCV - normalizer_BC[..., None])


def _rows(parts: jax.Array) -> jax.Array:
    """[T / C, B, C, ...] as [B, T, ...]."""
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1, *parts.shape[3:])
