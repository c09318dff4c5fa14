"""config.json and generation_config.json of a LLaMA in `transformers`, both ways."""

from pathlib import Path
from typing import Any, Literal

from alpaca_jax.config import parse
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import read_json

Dtype = Literal["float32", "bfloat16", "float16"]
GENERATION = "generation_config.json"
PLAIN = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}  # what other LLaMA-like models change


def architecture(file: Path) -> Architecture:
    """Returns the sizes in a config.json, as transformers 4 or 5 wrote it; a UserError where it is no plain LLaMA."""
    config = read_json(file)
    try:
        return parse(Architecture, _sizes(config))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except KeyError as error:
        raise UserError(f"{file} lacks {error.args[0]}; fetch it again, or give another model.source") from error
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{file} is not the config of a model ({error}); fetch it again") from error


def eos_ids(folder: Path) -> list[int]:
    """Returns the ids that end an answer, as generation_config.json or else config.json names them."""
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    ids = generation.get("eos_token_id", read_json(folder / "config.json").get("eos_token_id"))
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def files(architecture: Architecture, tokenizer: Tokenizer, dtype: Dtype, eos_ids: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Returns both files' contents by their names."""
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": list(eos_ids) if len(eos_ids) > 1 else eos_ids[0]}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_dim,
        **PLAIN,
        "rms_norm_eps": architecture.norm_eps,
        "max_position_embeddings": architecture.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": architecture.rope_theta},  # transformers 5
        "rope_theta": architecture.rope_theta,  # transformers 4
        "tie_word_embeddings": architecture.tie_embeddings,
        "initializer_range": 0.02,
        **special,
        "dtype": dtype,  # transformers 5
        "torch_dtype": dtype,  # transformers 4
    }
    return {"config.json": config, GENERATION: {**special, "pad_token_id": tokenizer.pad_id}}


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    if config["model_type"] != "llama":
        raise UserError(f"a model of the type {config['model_type']!r}; only llama is read")
    for key, plain in PLAIN.items():
        if config.get(key, plain) != plain:
            raise UserError(f"{key} is {config[key]!r}; only {plain!r} is supported")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"its RoPE frequencies are scaled ({kind}), which is not supported; give a model with plain RoPE")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("RoPE turns only a part of each head, which is not supported; give another model.source")
    heads = config["num_attention_heads"]
    return {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        "norm_eps": config["rms_norm_eps"],
        "max_positions": config["max_position_embeddings"],
        "tie_embeddings": config.get("tie_word_embeddings", False),
    }
