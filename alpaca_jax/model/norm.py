"""RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm(x: Float[Array, "*shape D"], scale: Float[Array, "*heads D"], eps: float) -> Float[Array, "*shape D"]:
    """`x` divided by its root mean square over D, times `scale` ([D], or one for each head); computed in fp32, returned in x's dtype."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (x32 * inverse * scale.astype(jnp.float32)).astype(x.dtype)
