"""params.json of Meta and Mistral: what it says, and what must be inferred from the tensors."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alpaca_jax import documents
from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.model.architecture import LARGEST, POWER, Architecture

FILE = "params.json"
SIZES = ("dim", "n_layers", "n_heads", "norm_eps")  # those without a default
KNOWN = {
    *SIZES,
    *("n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "multiple_of", "ffn_dim_multiplier", "rope_theta", "sliding_window"),
    *("use_scaled_rope", "rope_scaling_factor", "rope_high_freq_factor", "tied_embeddings"),
    *("max_seq_len", "max_position_embeddings", "max_batch_size", "model_type"),
}
COUNTS = {"dim": "hidden_size", "n_layers": "num_layers", "n_heads": "num_heads", "n_kv_heads": "num_kv_heads", "head_dim": "head_dim"}
WHOLE = ("hidden_dim", "vocab_size", "multiple_of", "sliding_window", "max_seq_len", "max_position_embeddings", "max_batch_size")
NUMBERS = ("norm_eps", "ffn_dim_multiplier", "rope_theta", "rope_scaling_factor", "rope_high_freq_factor")
SWITCHES = ("use_scaled_rope", "tied_embeddings")
MOST_BYTES = 1 << 20
LLAMA_3_POSITIONS = 8192


class Sizes(NamedTuple):
    """Sizes from the tensors, which params.json may leave out."""

    vocab_size: int
    intermediate_size: int


def read(folder: Path) -> dict[str, Any]:
    """Returns the content of params.json; a UserError where it is invalid, or needs something unsupported."""
    file = folder / FILE
    params = documents.json_object(documents.read(file, MOST_BYTES), str(file))
    params = params.get("model", params)
    if not isinstance(params, dict):
        raise UserError(f"{file}: model is {repr(params)[:80]}, and should be an object; download it again")
    if missing := [key for key in SIZES if params.get(key) is None]:
        raise UserError(f"{file} gives no number for {', '.join(missing)}; download it again, or give another model.source")
    _check_types(file, params)
    # A key that is off (null, false, 0, -1, an empty list) changes nothing.
    unknown = [f"{key[:80]} ({repr(value)[:80]})" for key, value in params.items() if key not in KNOWN and value and value != -1]
    if unknown:
        raise UserError(
            f"{file} has {', '.join(unknown[:20])}, which is not supported and may change what the model computes; "
            "give the model as a Hugging Face folder instead"
        )
    return params


def _check_types(file: Path, params: Mapping[str, Any]) -> None:
    """Raises a UserError for a value of another type, or for a size with which nothing could be counted."""
    for key, value in params.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        number = whole or (isinstance(value, float) and math.isfinite(value))
        if value is None:
            continue
        if key in COUNTS and not (whole and 1 <= value <= LARGEST[COUNTS[key]]):
            raise UserError(f"{file}: {key} is {repr(value)[:80]}, and should be a number from 1 to {LARGEST[COUNTS[key]]:,}")
        if key in WHOLE and not (whole and -1 <= value < 1 << 31):
            raise UserError(f"{file}: {key} is {repr(value)[:80]}, and should be a whole number above 0")
        if key in NUMBERS and not (number and 0 < value < POWER):
            raise UserError(f"{file}: {key} is {repr(value)[:80]}, and should be a number above 0")
        if key in SWITCHES and not isinstance(value, bool):
            raise UserError(f"{file}: {key} is {repr(value)[:80]}, and should be true or false")


def architecture(
    folder: Path, params: Mapping[str, Any], sizes: Sizes, tied: bool, max_positions: int | None
) -> tuple[Architecture, tuple[str, ...]]:
    """Returns the architecture and, in words, what was inferred; a UserError where sizes contradict each other."""
    positions, notes = (max_positions, []) if max_positions is not None else _positions(params)
    scaling, more = _scaling(params, tied)
    values = {
        "family": _family(params),
        "vocab_size": params["vocab_size"] if (params.get("vocab_size") or -1) > 0 else sizes.vocab_size,
        "hidden_size": params["dim"],
        "intermediate_size": sizes.intermediate_size,
        "num_layers": params["n_layers"],
        "num_heads": params["n_heads"],
        "num_kv_heads": params.get("n_kv_heads") or params["n_heads"],
        "head_dim": head_dim(params),
        "rope_theta": _theta(params),
        "norm_eps": params["norm_eps"],
        "max_positions": positions,
        "tie_embeddings": tied,
        "rope_scaling": scaling,
        "sliding_window": params.get("sliding_window") or None,
    }
    try:
        return parse(Architecture, values), (*notes, *more)
    except UserError as error:
        raise UserError(f"{folder / FILE}: {error}") from error


def head_dim(params: Mapping[str, Any]) -> int:
    """Returns the width of one head."""
    return params.get("head_dim") or params["dim"] // params["n_heads"]


def _family(params: Mapping[str, Any]) -> str:
    return "mistral" if params.get("hidden_dim") or params.get("sliding_window") else "llama"  # Meta has neither key


def _theta(params: Mapping[str, Any]) -> float:
    return params.get("rope_theta") or 10000.0


def _scaling(params: Mapping[str, Any], tied: bool) -> tuple[dict[str, Any] | None, list[str]]:
    if not params.get("use_scaled_rope"):
        return None, []
    scaling = {"kind": "llama3", "original_max_positions": LLAMA_3_POSITIONS}
    if params.get("rope_high_freq_factor"):
        scaling["high_freq_factor"] = params["rope_high_freq_factor"]
    if params.get("rope_scaling_factor"):
        return {**scaling, "factor": params["rope_scaling_factor"]}, []
    # Only the small models of Llama 3.2 tie the output to the embedding, and they have a larger factor.
    factor, of = (32.0, "Llama 3.2") if tied else (8.0, "Llama 3.1 and 3.3")
    return {**scaling, "factor": factor}, [f"{FILE} scales RoPE but does not say by how much: assumed to be {factor:.0f}, as in {of}"]


def _positions(params: Mapping[str, Any]) -> tuple[int, list[str]]:
    for key in ("max_seq_len", "max_position_embeddings"):
        if (params.get(key) or -1) > 0:
            return params[key], []
    if _family(params) == "mistral":
        positions, of = 32768, "Mistral 7B"
    elif params.get("use_scaled_rope"):
        positions, of = 131072, "Llama 3.1 and later"
    elif _theta(params) == 500000:
        positions, of = LLAMA_3_POSITIONS, "Llama 3"
    elif _theta(params) > 10000:
        positions, of = 16384, "Code Llama"
    elif _first_llama(params):
        positions, of = 2048, "LLaMA 1"
    else:
        positions, of = 4096, "Llama 2"
    return positions, [f"{FILE} does not give the context length: max_positions is assumed to be {positions}, as in {of}"]


def _first_llama(params: Mapping[str, Any]) -> bool:
    """Whether it is LLaMA 1: only its largest model has the norm_eps of Llama 2, whose 80-layer model has grouped heads."""
    return params["norm_eps"] < 5e-6 or (params["n_layers"] == 80 and not params.get("n_kv_heads"))
