"""config.json and generation_config.json of the LLaMA family in `transformers`, read and written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.formats.dtypes import Dtype
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import read_json
from alpaca_jax.tokenizer import Tokenizer

GENERATION = "generation_config.json"
SLIDING, FULL = "sliding_attention", "full_attention"


class Family(NamedTuple):
    """The class in transformers, and its defaults for keys that config.json leaves out."""

    model: str
    defaults: dict[str, Any]


_QWEN = {"num_key_value_heads": 32, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", {}),
    "mistral": Family("MistralForCausalLM", {"num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": Family("Qwen2ForCausalLM", _QWEN),
    "qwen3": Family("Qwen3ForCausalLM", {**_QWEN, "head_dim": 128}),
    "smollm3": Family(
        "SmolLM3ForCausalLM", {"num_key_value_heads": 4, "rope_theta": 2e6, "no_rope_layer_interval": 4, "tie_word_embeddings": True}
    ),
}
NAMES = {  # our names and theirs
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "norm_eps": "rms_norm_eps",
    "max_positions": "max_position_embeddings",
}
SCALING = {  # the keys of each rope_type, which have the same names here
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", "attention_factor", "short_factor", "long_factor"),
}
ORIGINAL = "original_max_position_embeddings"


def architecture(file: Path) -> Architecture:
    """Returns the architecture of a config.json of transformers 4 or 5; a UserError where it is of another kind."""
    config = read_json(file)
    try:
        return parse(Architecture, _sizes(config))
    except UserError as error:
        there = [f"{ours} is {theirs} there" for ours, theirs in NAMES.items() if ours != theirs and ours in str(error)]
        raise UserError(f"{file}: {error}" + (f"\n  ({', '.join(there)})" if there else "")) from error
    except KeyError as error:
        raise UserError(f"{file} lacks {error.args[0]}; download it again, or give another model.source") from error
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{file} is not the config of a model ({error}); download it again") from error


def eos_ids(folder: Path) -> list[int]:
    """Returns the ids that end an answer, from generation_config.json or else config.json."""
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    ids = generation.get("eos_token_id", read_json(folder / "config.json").get("eos_token_id"))
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def files(architecture: Architecture, tokenizer: Tokenizer, dtype: Dtype, eos_ids: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Returns the contents of both files by name, in a form that transformers 4 and 5 read."""
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": list(eos_ids) if len(eos_ids) > 1 else eos_ids[0]}
    config = {
        "architectures": [FAMILIES[architecture.family].model],
        "model_type": architecture.family,
        **{theirs: getattr(architecture, ours) for ours, theirs in NAMES.items()},
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_dim,
        "hidden_act": "silu",
        **_written_switches(architecture),
        **_written_rope(architecture),
        "tie_word_embeddings": architecture.tie_embeddings,
        "initializer_range": 0.02,
        **special,
        "dtype": dtype,  # transformers 5
        "torch_dtype": dtype,  # transformers 4
    }
    return {"config.json": config, GENERATION: {**special, "pad_token_id": tokenizer.pad_id}}


def _written_switches(a: Architecture) -> dict[str, Any]:
    bias = {"attention_bias": a.out_bias, "mlp_bias": False}
    if a.family == "llama":
        return bias
    if a.family == "mistral":
        return {"sliding_window": a.sliding_window}
    kinds = [SLIDING if layer in a.sliding else FULL for layer in range(a.num_layers)]
    windows = {"use_sliding_window": bool(a.sliding), "sliding_window": a.sliding_window if a.sliding else None, "layer_types": kinds}
    if a.family == "smollm3":
        # Its default pad_token_id may exceed a small vocabulary.
        turns = [int(layer not in a.nope_layers) for layer in range(a.num_layers)]
        return {**bias, **windows, "no_rope_layers": turns, "pad_token_id": None}
    windows["max_window_layers"] = (
        a.sliding[0] if a.sliding else a.num_layers
    )  # used before layer_types existed: layers from here on have the window
    return windows if a.family == "qwen2" else {**windows, "attention_bias": a.out_bias}


def _written_rope(a: Architecture) -> dict[str, Any]:
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


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    family = config["model_type"]
    if family not in FAMILIES:
        raise UserError(f"model_type is {family!r}; {', '.join(FAMILIES)} are read: give another model.source")
    config = FAMILIES[family].defaults | config
    _refuse(config)
    heads = config["num_attention_heads"]
    biased = bool(config.get("attention_bias")) and family in ("llama", "qwen3", "smollm3")
    return {
        **{ours: config[theirs] for ours, theirs in NAMES.items()},
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "tie_embeddings": config.get("tie_word_embeddings", False),
        "family": family,
        "qkv_bias": biased or family == "qwen2",
        "out_bias": biased,
        "qk_norm": family == "qwen3",
        "nope_layers": _nope_layers(config) if family == "smollm3" else (),
        **_windows(family, config),
        **_rope(config),
    }


def _refuse(config: dict[str, Any]) -> None:
    """Raises a UserError that names the key of a computation which is not supported here."""
    another = "give another model.source"
    for key, plain in {"hidden_act": "silu", "mlp_bias": False}.items():
        if config.get(key, plain) != plain:
            raise UserError(f"{key} is {config[key]!r}; only {plain!r} is supported: {another}")
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if config.get(key):
            raise UserError(f"{key} is {config[key]!r}: a mixture of experts, only dense models are supported; {another}")
    if config.get("quantization_config"):
        raise UserError("quantization_config is set, but quantised weights are read only from GGUF files: give one, or the full weights")


def _nope_layers(config: dict[str, Any]) -> tuple[int, ...]:
    count, interval = config["num_hidden_layers"], config["no_rope_layer_interval"]
    turns = config.get("no_rope_layers") or [(layer + 1) % interval for layer in range(count)]  # despite its name, 1 means RoPE
    if len(turns) < count:
        raise UserError(f"no_rope_layers has {len(turns)} numbers for {count} layers; download it again")
    return tuple(layer for layer in range(count) if not turns[layer])


def _windows(family: str, config: dict[str, Any]) -> dict[str, Any]:
    """The window in tokens, and the layers that have it."""
    count, kinds = config["num_hidden_layers"], config.get("layer_types")
    if family == "llama":
        return {}
    if family == "mistral":
        window = config["sliding_window"]
        sliding: Sequence[int] = range(0 if window is None else count)
        if kinds is not None and kinds != [FULL if window is None else SLIDING] * count:
            raise UserError(f"layer_types is {kinds!r}; all layers of a mistral must be alike: give another model.source")
    else:
        window = config.get("sliding_window") if config.get("use_sliding_window") else None
        kinds = _default_kinds(family, config) if kinds is None else kinds
        if len(kinds) != count or any(kind not in ((FULL,) if window is None else (FULL, SLIDING)) for kind in kinds):
            known = f"{FULL!r} alone without use_sliding_window" if window is None else f"{FULL!r} and {SLIDING!r}"
            raise UserError(f"layer_types is {kinds!r}; it must have {count} entries, each {known}")
        sliding = [layer for layer, kind in enumerate(kinds) if kind == SLIDING]
    if not sliding:
        return {}
    return {"sliding_window": window, "sliding_layers": None if len(sliding) == count else tuple(sliding)}


def _default_kinds(family: str, config: dict[str, Any]) -> list[str]:
    count = config["num_hidden_layers"]
    if not config.get("use_sliding_window") or config.get("sliding_window") is None:
        return [FULL] * count
    slides = _nope_layers(config) if family == "smollm3" else range(config["max_window_layers"], count)
    return [SLIDING if layer in slides else FULL for layer in range(count)]


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    place = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"  # of both, transformers 5 reads the former
    given = config.get(place) or {}
    if any(isinstance(value, dict) for value in given.values()):
        raise UserError(f"{place} differs between layers, which is not supported; give another model.source")
    partial = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise UserError(
            f"partial_rotary_factor is {partial}: RoPE rotates only a part of each head, which is not supported; give another model"
        )
    theta = given.get("rope_theta") or config.get("rope_theta") or 10000.0
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "default":
        return {"rope_theta": theta}
    if kind not in SCALING:
        raise UserError(f"{place} has the rope_type {kind!r}; known are default, {', '.join(SCALING)}: give another model.source")
    scaling = {"kind": kind} | {key: given[key] for key in SCALING[kind] if given.get(key) is not None}
    length = config["max_position_embeddings"]
    original = length if kind in ("linear", "dynamic") else config.get(ORIGINAL) or given.get(ORIGINAL) or length
    if kind in ("yarn", "longrope"):
        scaling.setdefault("factor", length / original)
    if missing := [key for key in ("factor", "low_freq_factor", "high_freq_factor") if key in SCALING[kind] and key not in scaling]:
        raise KeyError(f"{place}.{missing[0]}")
    if kind != "linear":
        scaling["original_max_positions"] = original
    if kind in ("dynamic", "yarn"):  # here max_position_embeddings may be the context before its extension
        length = max(length, int(original * scaling["factor"]))
    return {"rope_theta": theta, "rope_scaling": scaling, "max_positions": length}
