"""RoPE's frequencies and their scaling in config.json, as transformers 4 (`rope_scaling`) and 5 (`rope_parameters`) spell them."""

from typing import Any

from alpaca_jax.errors import UserError
from alpaca_jax.formats.huggingface.values import due, is_number, is_whole, shown
from alpaca_jax.model.architecture import FACTOR, Architecture

SCALING = {  # the keys of each rope_type, which have the same names here
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", "attention_factor", "short_factor", "long_factor"),
}
ORIGINAL = "original_max_position_embeddings"


def read(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of an Architecture that a config.json describes; a UserError or a KeyError names what is wrong or missing."""
    place = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"  # of both, transformers 5 reads the former
    given = config.get(place) or {}
    if any(isinstance(value, dict) for value in given.values()):
        raise UserError(f"{place} differs between layers, which is not supported; give another model.source")
    partial = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise UserError(
            f"partial_rotary_factor is {shown(partial)}: RoPE rotates only a part of each head, which is not supported; give another model"
        )
    due(given, "rope_theta", is_number, "a number", f"{place}.")
    theta = next((each["rope_theta"] for each in (given, config) if each.get("rope_theta") is not None), 10000.0)
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "default":
        return {"rope_theta": theta}
    if not isinstance(kind, str) or kind not in SCALING:
        raise UserError(f"{place} has the rope_type {shown(kind)}; known are default, {', '.join(SCALING)}: give another model.source")
    scaling = _scaling(config, place, kind, given)
    length = config["max_position_embeddings"]
    if kind in ("dynamic", "yarn"):  # here max_position_embeddings may be the context before its extension
        length = max(length, int(scaling["original_max_positions"] * scaling["factor"]))
    return {"rope_theta": theta, "rope_scaling": scaling, "max_positions": length}


def _scaling(config: dict[str, Any], place: str, kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a RopeScaling."""
    due(given, ORIGINAL, lambda value: is_whole(value) and value > 0, "a whole number above 0", f"{place}.")
    for key in SCALING[kind]:
        if key in ("short_factor", "long_factor"):
            due(given, key, lambda value: isinstance(value, list) and all(map(is_number, value)), "a list of numbers", f"{place}.")
        elif key == "truncate":
            due(given, key, lambda value: isinstance(value, bool), "true or false", f"{place}.")
        else:
            due(given, key, is_number, "a number", f"{place}.")
    due(given, "factor", lambda value: 1 <= value <= FACTOR, f"from 1 to {FACTOR:g}", f"{place}.")
    scaling = {"kind": kind} | {key: given[key] for key in SCALING[kind] if given.get(key) is not None}
    length = config["max_position_embeddings"]
    original = length if kind in ("linear", "dynamic") else config.get(ORIGINAL) or given.get(ORIGINAL) or length
    if kind in ("yarn", "longrope"):
        scaling.setdefault("factor", length / original)
    if missing := [key for key in ("factor", "low_freq_factor", "high_freq_factor") if key in SCALING[kind] and key not in scaling]:
        raise KeyError(f"{place}.{missing[0]}")
    if kind != "linear":
        scaling["original_max_positions"] = original
    return scaling


def written(a: Architecture) -> dict[str, Any]:
    """Returns the keys that both versions read."""
    scaling = a.rope_scaling
    if scaling is None:
        # transformers 5 reads rope_parameters, 4 the key beside it.
        return {"rope_parameters": {"rope_type": "default", "rope_theta": a.rope_theta}, "rope_theta": a.rope_theta}
    original = scaling.original_max_positions
    written = {key: getattr(scaling, key) for key in SCALING[scaling.kind]}
    written = {key: list(value) if isinstance(value, tuple) else value for key, value in written.items() if value is not None}
    keys: dict[str, Any] = {}
    if scaling.kind == "dynamic":
        keys["max_position_embeddings"] = original or a.max_positions  # dynamic scaling starts beyond this
    elif scaling.kind != "linear":
        written[ORIGINAL] = original
    if scaling.kind == "longrope":
        keys[ORIGINAL] = original  # transformers 4 reads it only here
    written = {"rope_type": scaling.kind, **written}
    both = {"rope_parameters": {**written, "rope_theta": a.rope_theta}, "rope_theta": a.rope_theta, "rope_scaling": written}
    return {**both, **keys}
