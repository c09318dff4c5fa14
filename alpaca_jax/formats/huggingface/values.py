"""The values of config.json and generation_config.json: each must be of its type before anything is computed with it."""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.model.architecture import LARGEST

MOST_BYTES = 4 << 20  # of a config
COUNTS = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads", "hidden_size": "hidden_size"}
WHOLE = (
    *("vocab_size", "intermediate_size", "max_position_embeddings", "num_key_value_heads", "head_dim"),
    *("sliding_window", "max_window_layers", "no_rope_layer_interval", "original_max_position_embeddings"),
)
SWITCHES = ("attention_bias", "mlp_bias", "tie_word_embeddings", "use_sliding_window")


def read(file: Path) -> dict[str, Any]:
    """Returns the content of a config.json or generation_config.json; a UserError where it is no JSON object of a sensible size."""
    return documents.json_object(documents.read(file, MOST_BYTES), str(file))


def check(config: Mapping[str, Any]) -> None:
    """Raises a UserError for a value of another type, by its key, and for sizes with which nothing could be counted."""
    for key in SWITCHES:
        due(config, key, lambda value: isinstance(value, bool), "true or false")
    for theirs, ours in COUNTS.items():
        most = LARGEST[ours]
        due(config, theirs, functools.partial(_up_to, most), f"from 1 to {most:,}")
    for key in WHOLE:
        due(config, key, is_whole, f"a whole number below {1 << 31:,}")
    for key in ("rms_norm_eps", "rope_theta"):
        due(config, key, is_number, "a number")
    for key in ("no_rope_layer_interval", "original_max_position_embeddings"):
        due(config, key, lambda value: value > 0, "above 0")
    for key in ("layer_types", "no_rope_layers"):
        due(config, key, lambda value: isinstance(value, list), "a list")
    for key in ("rope_scaling", "rope_parameters"):
        due(config, key, lambda value: isinstance(value, dict), "an object")


def ids(file: Path, key: str, given: Any, vocab_size: int) -> list[int]:
    """Returns the ids that a key of `file` gives to a special token: -1 and null are none, a UserError for those beyond the vocabulary."""
    several = given if isinstance(given, list) and key == "eos_token_id" else [] if given is None else [given]
    for id in several:
        if not is_whole(id) or not -1 <= id < vocab_size:
            raise UserError(f"{file}: {key} is {shown(given)}, and should be an id below the vocab_size of {vocab_size:,}, or null")
    return [id for id in several if id >= 0]


def due(config: Mapping[str, Any], key: str, fits: Callable[[Any], bool], words: str, place: str = "") -> None:
    """Raises a UserError where a key of `place` is given, and its value doesn't fit what should be there, in `words`."""
    if config.get(key) is not None and not fits(config[key]):
        raise UserError(f"{place}{key} is {shown(config[key])}, and should be {words}")


def _up_to(most: int, value: Any) -> bool:
    return is_whole(value) and 1 <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that floats have."""
    return math.isfinite(value) if isinstance(value, float) else is_whole(value)


def is_whole(value: Any) -> bool:
    """Whether a value of JSON is a whole number that fits 32 bits, as all sizes do."""
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 31) <= value < 1 << 31


def shown(value: Any) -> str:
    """Returns a value for an error, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
