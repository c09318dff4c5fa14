"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), in the half-split layout that Hugging Face checkpoints use.

To extend the context beyond the training length, the frequencies are changed. Those that depend on the architecture alone are constants
of the program, rounded to float32 where `transformers` rounds them; dynamic scaling and LongRoPE also depend on the length of each text.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from alpaca_jax.model.architecture import Architecture, RopeScaling

BY_LENGTH = ("dynamic", "longrope")


class Angles(NamedTuple):
    """The cosine and sine of each position's angles; a head has K = 2 * half values."""

    cos: Float32[Array, "*tokens 1 half"]
    sin: Float32[Array, "*tokens 1 half"]


def angles(
    positions_BT: Int[Array, "B T"], architecture: Architecture, lengths: Int[Array, " B"] | Int[Array, "B T"] | None = None
) -> Angles:
    """The rotation of each position, computed once per forward pass and shared by all layers.

    `lengths` is the length of each row [B], or of each token's text [B, T] (default: a row's largest position + 1); only the scalings
    in BY_LENGTH read it. YaRN and LongRoPE multiply cosine and sine by a factor to sharpen the attention.
    """
    scaling = architecture.rope_scaling
    if scaling is not None and scaling.kind in BY_LENGTH:
        lengths = jnp.max(positions_BT, axis=1) + 1 if lengths is None else lengths
        lengths_BT11 = lengths.reshape(lengths.shape[0], -1, 1, 1)
        frequency: jax.Array | np.ndarray = (
            _dynamic(architecture, lengths_BT11) if scaling.kind == "dynamic" else _longrope(architecture, lengths_BT11)
        )
    else:
        frequency = frequencies(architecture)
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * frequency
    at = Angles(jnp.cos(angle), jnp.sin(angle))
    factor = 1.0 if scaling is None else attention_factor(scaling)
    return at if factor == 1.0 else Angles(at.cos * factor, at.sin * factor)


def rotate(x_BTHK: Float[Array, "B T H K"], at: Angles) -> Float[Array, "B T H K"]:
    """`x_BTHK` with dimension i of each head rotated against dimension i + K/2; same shape and dtype."""
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * at.cos - second * at.sin, second * at.cos + first * at.sin], axis=-1).astype(x_BTHK.dtype)


def only_if(turns: Bool[Array, ""], at: Angles) -> Angles:
    """`at` if the scalar `turns` is true, else the identity rotation, for a layer without RoPE."""
    return Angles(jnp.where(turns, at.cos, 1.0), jnp.where(turns, at.sin, 0.0))


def text_lengths(architecture: Architecture, segments_BT: Int[Array, "B T"], positions_BT: Int[Array, "B T"]) -> Int[Array, "B T"] | None:
    """The length [B, T] of each token's segment for the scalings in BY_LENGTH, so that packing changes no angle; else None."""
    if architecture.rope_scaling is None or architecture.rope_scaling.kind not in BY_LENGTH:
        return None
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    return jnp.max(jnp.where(same_BTS, positions_BT[:, None, :] + 1, 0), axis=2)


def alike(architecture: Architecture, length: int, other: int) -> bool:
    """Whether texts of these two lengths get the same angles."""
    scaling = architecture.rope_scaling
    if scaling is None or scaling.kind not in BY_LENGTH:
        return True
    original = scaling.original_max_positions or architecture.max_positions
    if scaling.kind == "longrope":
        return (length > original) == (other > original)
    return max(length, original) == max(other, original)


def frequencies(architecture: Architecture) -> np.ndarray:
    """The angle per position in radians, fp32 [K/2], for the methods that depend on the architecture alone."""
    scaling, plain = architecture.rope_scaling, _plain(architecture)
    if scaling is None:
        return plain
    assert scaling.kind not in BY_LENGTH, scaling.kind
    if scaling.kind == "linear":  # position interpolation (Chen et al. 2023, arXiv:2306.15595)
        return plain / np.float32(scaling.factor)
    return _llama3(scaling, plain) if scaling.kind == "llama3" else _yarn(architecture, scaling, plain)


def attention_factor(scaling: RopeScaling) -> float:
    """The factor on cosine and sine: 1 except for YaRN (section 3.4) and LongRoPE (section 3.3 of arXiv:2402.13753)."""
    if scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.kind == "longrope":
        assert scaling.original_max_positions is not None
        return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_max_positions))
    sharper = lambda scale: 0.1 * scale * math.log(scaling.factor) + 1.0  # noqa: E731
    if scaling.mscale and scaling.mscale_all_dim:  # the two factors of DeepSeek
        return sharper(scaling.mscale) / sharper(scaling.mscale_all_dim)
    return sharper(1.0)


def _exponents(head_dim: int) -> np.ndarray:
    return np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)


def _plain(a: Architecture) -> np.ndarray:
    # The power is computed in float64 and rounded: float32 powers differ between libraries in the last digit.
    powers = (a.rope_theta ** _exponents(a.head_dim).astype(np.float64)).astype(np.float32)
    return np.float32(1.0) / powers


def _llama3(scaling: RopeScaling, plain: np.ndarray) -> np.ndarray:
    """Llama 3.1 (Dubey et al. 2024, arXiv:2407.21783; the formula is in Meta's llama-models, `apply_scaling`).

    Wavelengths that fit many times into the original context stay, longer ones than it are stretched, with a ramp between them.
    """
    assert scaling.original_max_positions is not None
    turns = scaling.original_max_positions / (2 * math.pi / plain.astype(np.float64))  # within the original context
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(ramp, 0.0, 1.0)
    return ((1 - kept) * plain / scaling.factor + kept * plain).astype(np.float32)


def _yarn(a: Architecture, scaling: RopeScaling, plain: np.ndarray) -> np.ndarray:
    """YaRN (Peng et al. 2023, arXiv:2309.00071), "NTK by parts".

    Dimensions that turn more than beta_fast times in the original context stay; those that turn less than beta_slow times are
    interpolated; a linear ramp joins them.
    """
    assert scaling.original_max_positions is not None
    original = scaling.original_max_positions
    dimension = lambda turns: a.head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(a.rope_theta))  # noqa: E731
    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, a.head_dim - 1)
    high = high + 0.001 if low == high else high
    ramp = np.clip((np.arange(a.head_dim // 2, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
    return (ramp * plain / scaling.factor + (1 - ramp) * plain).astype(np.float32)


def _dynamic(a: Architecture, lengths_BT11: jax.Array) -> jax.Array:
    """Dynamic NTK scaling (section 3.3 of arXiv:2309.00071; by u/emozilla and u/bloc97): the base grows with the length of the text."""
    scaling = a.rope_scaling
    assert scaling is not None
    original = scaling.original_max_positions or a.max_positions
    beyond = jnp.maximum(lengths_BT11 - original, 0).astype(jnp.float32) / original
    growth = (1.0 + scaling.factor * beyond) ** (a.head_dim / (a.head_dim - 2))
    return jnp.asarray(_plain(a)) * growth ** -_exponents(a.head_dim)


def _longrope(a: Architecture, lengths_BT11: jax.Array) -> jax.Array:
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): a searched factor for each pair of dimensions, with other factors for long texts."""
    scaling = a.rope_scaling
    assert scaling is not None and scaling.original_max_positions is not None
    plain = _plain(a)
    short, long = (plain / np.asarray(factors, np.float32) for factors in (scaling.short_factor, scaling.long_factor))
    return jnp.where(lengths_BT11 > scaling.original_max_positions, long, short)
