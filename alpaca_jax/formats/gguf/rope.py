"""RoPE scaling in a GGUF header and its tensor `rope_freqs.weight`, read and written, as in llama.cpp."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.model import rope
from alpaca_jax.model.architecture import Architecture, RopeScaling

FACTORS = "rope_freqs.weight"  # the divisors of the frequencies, in which llama.cpp stores the scaling of Llama 3.1
PUBLISHED = (1.0, 4.0, 8192)  # low_freq_factor, high_freq_factor, original context of every Llama 3.1, 3.2 and 3.3
_SCALING = "rope.scaling."
_BETAS = (32.0, 1.0)  # of YaRN, fixed in llama.cpp for these architectures
_REMEDY = "give a Hugging Face folder instead"


def keys(architecture: Architecture) -> dict[str, Any]:
    """Returns the keys of the scaling, without the architecture's name; a UserError where llama.cpp doesn't support it."""
    scaling = architecture.rope_scaling
    if scaling is None:
        return {}
    if scaling.kind == "linear":
        return {_SCALING + "type": "linear", _SCALING + "factor": float(scaling.factor)}
    if scaling.kind == "llama3":  # the tensor has the rest
        return {_SCALING + "original_context_length": scaling.original_max_positions}
    if scaling.kind != "yarn":
        raise UserError(f"llama.cpp has no {scaling.kind} scaling of RoPE for this architecture; {_REMEDY}")
    if (scaling.beta_fast, scaling.beta_slow, scaling.truncate) != (*_BETAS, True):
        fixed = f"beta_fast {_BETAS[0]:g}, beta_slow {_BETAS[1]:g} and truncate true"
        raise UserError(f"for this architecture llama.cpp's YaRN has {fixed}, but the model has other values; {_REMEDY}")
    yarn = {
        _SCALING + "type": "yarn",
        _SCALING + "factor": float(scaling.factor),
        _SCALING + "original_context_length": scaling.original_max_positions,
    }
    # llama.cpp multiplies the factor of the paper by this one.
    extra = rope.attention_factor(scaling) / _paper_factor(scaling.factor)
    return yarn if math.isclose(extra, 1.0, rel_tol=1e-6) else {**yarn, _SCALING + "attn_factor": extra}


def factors(architecture: Architecture) -> np.ndarray | None:
    """Returns the tensor FACTORS, fp32 [head_dim / 2]; None where the scaling needs none."""
    scaling = architecture.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    assert scaling.original_max_positions is not None
    kept = (_turns(architecture) * scaling.original_max_positions - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    kept = np.clip(kept, 0.0, 1.0)
    return (1.0 / ((1.0 - kept) / scaling.factor + kept)).astype(np.float32)


def read(header: Mapping[str, Any], family: str, plain: Architecture, divisors: np.ndarray | None) -> RopeScaling | None:
    """Returns the RoPE scaling of a file, where `plain` is the architecture without scaling and `divisors` its tensor FACTORS.

    A UserError where it is not supported.
    """
    scaling = {key.removeprefix(f"{family}.{_SCALING}"): value for key, value in header.items() if key.startswith(f"{family}.{_SCALING}")}
    factor = scaling.get("factor", header.get(f"{family}.rope.scale_linear", 0.0)) or 1.0
    kind = scaling.get("type", "linear" if factor != 1.0 else "none")
    original = scaling.get("original_context_length")
    if divisors is not None:
        if kind != "none" and factor != 1.0:
            raise UserError(f"its RoPE frequencies are scaled twice, by {FACTORS} and as {kind}; {_REMEDY}")
        return _llama3(plain, divisors.astype(np.float64), original)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=decimal(factor))
    if kind != "yarn":
        raise UserError(f"its RoPE frequencies are scaled as {kind!r}, which is not supported for GGUF files; {_REMEDY}")
    return _yarn(scaling, decimal(factor), original or plain.max_positions)


def decimal(value: float) -> float:
    """Returns the shortest decimal number of a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _yarn(scaling: Mapping[str, Any], factor: float, original: int) -> RopeScaling:
    if scaling.get("yarn_ext_factor", 1.0) not in (1.0, -1.0) or scaling.get("yarn_log_multiplier"):
        raise UserError(f"its YaRN scaling has a yarn_ext_factor or a yarn_log_multiplier of its own, which is not supported; {_REMEDY}")
    attention = None
    if "attn_factor" in scaling:
        attention = decimal(scaling["attn_factor"] * _paper_factor(factor))
    elif "yarn_attn_factor" in scaling:  # llama.cpp's converter copies it from config.json
        attention = decimal(scaling["yarn_attn_factor"])
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_positions=int(original),
        attention_factor=attention,
        beta_fast=decimal(scaling.get("yarn_beta_fast", _BETAS[0])),
        beta_slow=decimal(scaling.get("yarn_beta_slow", _BETAS[1])),
    )


def _paper_factor(factor: float) -> float:
    return 0.1 * math.log(factor) + 1.0


def _turns(architecture: Architecture) -> np.ndarray:
    """The rotations of each pair of dimensions per position."""
    unscaled = np.arange(0, architecture.head_dim, 2) / architecture.head_dim
    return architecture.rope_theta**-unscaled / (2 * math.pi)


def _llama3(plain: Architecture, divisors: np.ndarray, original: int | None) -> RopeScaling | None:
    """The scaling whose tensor equals `divisors`: the published one, or one that is fitted to the ramp between 1 and the factor."""
    if np.all(divisors == 1.0):
        return None
    factor = decimal(divisors.max())
    low, high, length = PUBLISHED
    tried = [(low, high, original or length), *_solved(plain, divisors, factor, original)]
    for low, high, length in tried:
        if not 0 < low < high or length < 2:
            continue
        candidate = RopeScaling(kind="llama3", factor=factor, low_freq_factor=low, high_freq_factor=high, original_max_positions=length)
        ours = factors(dataclasses.replace(plain, rope_scaling=candidate))
        if ours is not None and ours.shape == divisors.shape and np.allclose(ours, divisors, rtol=1e-5, atol=0):
            return candidate
    raise UserError(f"{FACTORS} does not scale RoPE's frequencies as Llama 3.1 does, which is the only supported way; {_REMEDY}")


def _solved(plain: Architecture, divisors: np.ndarray, factor: float, original: int | None) -> list[tuple[float, float, int]]:
    """Between its ends the ramp is a line over the rotations per position: its slope and intercept give two of the three numbers.

    The third is free, since numbers with the same ratios give the same frequencies; it follows from the original context where the header
    has it, otherwise from a low_freq_factor of 1.
    """
    turns = _turns(plain)
    if turns.shape != divisors.shape:
        return []
    within = (divisors > 1.0) & (divisors < factor)
    if within.sum() < 2:
        return []
    kept = (1 / divisors[within] - 1 / factor) / (1 - 1 / factor)
    slope, start = np.polyfit(turns[within], kept, 1)
    if slope <= 0 or start >= 0:
        return []
    length = original or -slope / start
    width = length / slope
    low = -start * width
    return [(_tidy(low), _tidy(low + width), round(length)), (low, low + width, round(length))]


def _tidy(value: float) -> float:
    return float(f"{value:.4g}")
