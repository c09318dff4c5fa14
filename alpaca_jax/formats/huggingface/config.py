"""config.json and generation_config.json of the LLaMA family in `transformers`, read and written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.formats.dtypes import Dtype
from alpaca_jax.formats.huggingface import rope, values
from alpaca_jax.formats.huggingface.values import shown
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.tokenizer import Tokenizer

GENERATION = "generation_config.json"
SLIDING, FULL = "sliding_attention", "full_attention"


class Family(NamedTuple):
    """The class in transformers, and its defaults for keys that config.json leaves out."""

    model: str
    defaults: dict[str, Any]


_QWEN = {"num_key_value_heads": 32, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
_QWEN |= {"max_position_embeddings": 32768}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", {"max_position_embeddings": 2048}),
    "mistral": Family("MistralForCausalLM", {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072}),
    "qwen2": Family("Qwen2ForCausalLM", _QWEN),
    "qwen3": Family("Qwen3ForCausalLM", {**_QWEN, "head_dim": 128}),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        {
            "num_key_value_heads": 4,
            "rope_theta": 2e6,
            "no_rope_layer_interval": 4,
            "tie_word_embeddings": True,
            "max_position_embeddings": 32768,
        },
    ),
}
EPS = 1e-6  # of every family
NAMES = {  # our names and theirs
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "norm_eps": "rms_norm_eps",
    "max_positions": "max_position_embeddings",
}
DEFAULTED = ("max_position_embeddings", "rms_norm_eps")  # published configs left them out
NULLABLE = (*values.SWITCHES, "sliding_window", "num_key_value_heads", "head_dim")  # elsewhere, null is a key that is left out
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
SILU = ("silu", "swish")  # two names of one function


def architecture(file: Path) -> Architecture:
    """Returns the architecture of a config.json of transformers 4 or 5; a UserError where it is of another kind."""
    config = values.read(file)
    try:
        return parse(Architecture, _sizes(config))
    except UserError as error:
        named = {**NAMES, "num_kv_heads": "num_key_value_heads", "original_max_positions": rope.ORIGINAL}
        there = [f"{ours} is {theirs} there" for ours, theirs in named.items() if ours != theirs and ours in str(error)]
        raise UserError(f"{file}: {error}" + (f"\n  ({', '.join(there)})" if there else "")) from error
    except KeyError as error:
        key = error.args[0]
        value = f"one of {', '.join(FAMILIES)}" if key == "model_type" else "the value that the model was trained with"
        raise UserError(f'{file} lacks {key}: add "{key}" there, with {value}') from error


def assumed(file: Path) -> tuple[str, ...]:
    """Returns in words which sizes a config.json leaves out, and what they are in `transformers`."""
    config = values.read(file)
    defaults = {"rms_norm_eps": EPS, **FAMILIES[config["model_type"]].defaults}
    notes = [f"{key} is not given, and taken to be {defaults[key]}, as in transformers" for key in DEFAULTED if config.get(key) is None]
    if notes and "max_sequence_length" in config:  # before the first release of LLaMA's code
        notes.append(f"max_sequence_length ({config['max_sequence_length']}) is not read, by transformers neither")
    return tuple(f"{file.name}: {note}" for note in notes)


def eos_ids(folder: Path, vocab_size: int) -> list[int]:
    """Returns the ids that end an answer, from generation_config.json or else config.json: below `vocab_size`, or a UserError.

    -1 and null mean none, as for every special token; the ids of the others are checked as well.
    """
    found: list[int] | None = None
    for file in (folder / GENERATION, folder / "config.json"):
        config = values.read(file) if file.is_file() else {}
        ids = {key: values.ids(file, key, config.get(key), vocab_size) for key in SPECIAL}
        if found is None and "eos_token_id" in config:
            found = ids["eos_token_id"]
    return found or []


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
        **rope.written(architecture),
        "tie_word_embeddings": architecture.tie_embeddings,
        "initializer_range": 0.02,
        **special,
        "dtype": dtype,  # transformers 5
        "torch_dtype": dtype,  # transformers 4
    }
    return {"config.json": config, GENERATION: {**special, "pad_token_id": tokenizer.pad_id}}


def _written_switches(a: Architecture) -> dict[str, Any]:
    bias = {"attention_bias": a.out_bias, "mlp_bias": a.mlp_bias}
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


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    family = config["model_type"]
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(f"model_type is {shown(family)}; {', '.join(FAMILIES)} are read: give another model.source")
    given = {key: value for key, value in config.items() if value is not None or key in NULLABLE}
    config = {"rms_norm_eps": EPS, **FAMILIES[family].defaults, **given}
    _refuse(config)
    values.check(config)
    heads = config["num_attention_heads"]
    biased = bool(config.get("attention_bias")) and family in ("llama", "qwen3", "smollm3")
    return {
        **{ours: config[theirs] for ours, theirs in NAMES.items()},
        "num_kv_heads": heads if config.get("num_key_value_heads") is None else config["num_key_value_heads"],
        "head_dim": config["hidden_size"] // heads if config.get("head_dim") is None else config["head_dim"],
        "tie_embeddings": bool(config.get("tie_word_embeddings")),
        "family": family,
        "qkv_bias": biased or family == "qwen2",
        "out_bias": biased,
        "mlp_bias": bool(config.get("mlp_bias")) and family in ("llama", "smollm3"),
        "qk_norm": family == "qwen3",
        "nope_layers": _nope_layers(config) if family == "smollm3" else (),
        **_windows(family, config),
        **rope.read(config),
    }


def _refuse(config: dict[str, Any]) -> None:
    """Raises a UserError that names the key of a computation which is not supported here."""
    another = "give another model.source"
    if config.get("hidden_act", "silu") not in SILU:
        raise UserError(f"hidden_act is {shown(config['hidden_act'])}; only 'silu' is supported: {another}")
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if config.get(key):
            raise UserError(f"{key} is {shown(config[key])}: a mixture of experts, only dense models are supported; {another}")
    if config.get("quantization_config"):
        raise UserError("quantization_config is set, but quantised weights are read only from GGUF files: give one, or the full weights")


def _nope_layers(config: dict[str, Any]) -> tuple[int, ...]:
    count, interval = config["num_hidden_layers"], config["no_rope_layer_interval"]
    turns = config.get("no_rope_layers") or [int((layer + 1) % interval > 0) for layer in range(count)]  # despite its name, 1 means RoPE
    if len(turns) < count or any(turn not in (0, 1) for turn in turns):
        raise UserError(f"no_rope_layers has {len(turns)} entries; it must have {count}, each 0 or 1")
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
            raise UserError(f"layer_types is {shown(kinds)}; all layers of a mistral must be alike: give another model.source")
    else:
        window = config.get("sliding_window") if config.get("use_sliding_window") else None
        kinds = _default_kinds(family, config) if kinds is None else kinds
        if len(kinds) != count or any(kind not in ((FULL,) if window is None else (FULL, SLIDING)) for kind in kinds):
            known = f"{FULL!r} alone without use_sliding_window" if window is None else f"{FULL!r} and {SLIDING!r}"
            raise UserError(f"layer_types is {shown(kinds)}; it must have {count} entries, each {known}")
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
