"""The architecture as keys of a GGUF header, read and written."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from alpaca_jax.config import parse, to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.formats.gguf import rope as gguf_rope
from alpaca_jax.model.architecture import LARGEST, Architecture

# In llama.cpp, Mistral is called llama as well.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "smollm3": "smollm3"}
INTERLEAVED = ("llama", "smollm3")  # llama.cpp rotates neighbouring rows of their heads, so their files interleave them
NOPE_STEP = 4  # in llama.cpp, every fourth layer of SmolLM3 has no RoPE
KEYS = {  # our names, and theirs behind the architecture's
    "num_kv_heads": "attention.head_count_kv",
    "num_heads": "attention.head_count",
    "head_dim": "attention.key_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "max_positions": "context_length",
    "rope_theta": "rope.freq_base",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "factor": "rope.scaling.factor",
}
_REMEDY = "give a Hugging Face target instead"


def name(architecture: Architecture) -> str:
    """Returns the architecture's name in llama.cpp."""
    return ARCHITECTURES[architecture.family]


def keys(architecture: Architecture) -> dict[str, Any]:
    """Returns the keys of a header for `architecture`; a UserError where llama.cpp doesn't support it."""
    a, prefix = architecture, name(architecture)
    _check_known(a)
    sizes = {
        "vocab_size": a.vocab_size,
        "context_length": a.max_positions,
        "embedding_length": a.hidden_size,
        "block_count": a.num_layers,
        "feed_forward_length": a.intermediate_size,
        "attention.head_count": a.num_heads,
        "attention.head_count_kv": a.num_kv_heads,
        "attention.key_length": a.head_dim,
        "attention.value_length": a.head_dim,
        "attention.layer_norm_rms_epsilon": float(a.norm_eps),
        "rope.dimension_count": a.head_dim,
        "rope.freq_base": float(a.rope_theta),
        **gguf_rope.keys(a),
    }
    # For these architectures llama.cpp ignores the window: the results are equal up to its length.
    if a.sliding_window is not None:
        sizes["attention.sliding_window"] = a.sliding_window
        if len(a.sliding) < a.num_layers:
            sizes["attention.sliding_window_pattern"] = [layer in a.sliding for layer in range(a.num_layers)]
    return {f"{prefix}.{key}": value for key, value in sizes.items()}


def check(header: Mapping[str, Any]) -> None:
    """Raises a UserError for one of several parts of a split file; all but the first have no other keys."""
    count, number = header.get("split.count", 1), header.get("split.no")
    if isinstance(count, int) and count > 1:
        part = f"part {number + 1} of {count}" if isinstance(number, int) else f"one of {count} parts"
        raise UserError(
            f"{part} of a split file: join them with llama.cpp's `llama-gguf-split --merge FIRST_PART WHOLE_FILE`, and give the result"
        )


def architecture(header: Mapping[str, Any], tensors: Collection[str], divisors: np.ndarray | None) -> Architecture:
    """Returns the architecture that a header describes; `tensors` are the names in the file, `divisors` its tensor for RoPE.

    A KeyError where a key is missing, a UserError where the model is not supported.
    """
    family = header["general.architecture"]
    if family not in ARCHITECTURES.values():
        *others, last = dict.fromkeys(ARCHITECTURES.values())
        raise UserError(f"a model of the architecture {str(family)[:80]!r}; only {', '.join(others)} and {last} are supported")
    if header.get(f"{family}.expert_count"):
        raise UserError("a mixture of experts; only dense models are supported")
    sizes = _sizes(header, family, tensors)
    try:
        scaling = gguf_rope.read(header, family, parse(Architecture, sizes), divisors)
        return parse(Architecture, {**sizes, "rope_scaling": scaling and to_mapping(scaling)})
    except ValueError as error:  # a UserError, or that of a RopeScaling
        there = [f"{ours} is {family}.{theirs} there" for ours, theirs in KEYS.items() if re.search(rf"\b{ours}\b", str(error))]
        raise UserError(f"{error}" + (f"\n  ({', '.join(there)})" if there else "")) from error


def _sizes(header: Mapping[str, Any], family: str, tensors: Collection[str]) -> dict[str, Any]:
    def get(key: str, default: Any = None, kinds: type = int) -> Any:
        value = header.get(f"{family}.{key}", default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, kinds))):
            raise UserError(f"{family}.{key} is {str(value)[:80]}, and should be a {'whole ' * (kinds is int)}number")
        return value

    def need(key: str, kinds: type = int) -> Any:
        value = get(key, header[f"{family}.{key}"], kinds)
        if value < 1 and kinds is int:
            raise UserError(f"{family}.{key} is {value}, and should be at least 1")
        return value

    heads, width, layers = need("attention.head_count"), need("embedding_length"), need("block_count")
    if layers > LARGEST["num_layers"]:
        raise UserError(f"{family}.block_count is {layers:,}, and should be at most {LARGEST['num_layers']:,}")
    head_dim = get("attention.key_length", width // heads)
    if get("rope.dimension_count", head_dim) != head_dim:
        raise UserError("RoPE rotates only a part of each head, which is not supported; give another model.source")
    if get("attention.value_length", head_dim) != head_dim:
        raise UserError("its values and keys differ in size, which is not supported; give another model.source")
    tokens = header.get("tokenizer.ggml.tokens", ())
    sizes = {
        "vocab_size": get("vocab_size", len(tokens) if isinstance(tokens, list) else 0),
        "hidden_size": width,
        "intermediate_size": need("feed_forward_length"),
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rope_theta": gguf_rope.decimal(get("rope.freq_base", 10000.0, float)),
        "norm_eps": gguf_rope.decimal(need("attention.layer_norm_rms_epsilon", float)),
        "max_positions": need("context_length"),
        "tie_embeddings": "output.weight" not in tensors,
        "family": family,
        "qkv_bias": any(tensor.endswith("attn_q.bias") for tensor in tensors),
        "out_bias": any(tensor.endswith("attn_output.bias") for tensor in tensors),
        "mlp_bias": any(tensor.endswith("ffn_up.bias") for tensor in tensors),
        "qk_norm": any(tensor.endswith("attn_q_norm.weight") for tensor in tensors),
        "nope_layers": tuple(range(NOPE_STEP - 1, layers, NOPE_STEP)) if family == "smollm3" else (),
    }
    return sizes | _window(header, family, layers)


def _window(header: Mapping[str, Any], family: str, layers: int) -> dict[str, Any]:
    window, pattern = (header.get(f"{family}.attention.sliding_window{end}") for end in ("", "_pattern"))
    if not window:
        return {}
    if pattern is not None and (not isinstance(pattern, list) or len(pattern) != layers):
        raise UserError("its attention.sliding_window_pattern doesn't have one entry for each layer; give another model.source")
    sliding = None if pattern is None or all(pattern) else tuple(layer for layer, slides in enumerate(pattern) if slides)
    if sliding == ():
        return {}
    return {"sliding_window": window, "sliding_layers": sliding, "family": "mistral" if family == "llama" else family}


def _check_known(a: Architecture) -> None:
    problems = []
    if a.out_bias and a.family != "llama":
        problems.append(f"a bias after the attention of a {a.family}")
    if a.mlp_bias and a.family != "llama":
        problems.append(f"biases in the MLP of a {a.family}")
    if a.family == "qwen2" and a.num_heads * a.head_dim != a.hidden_size:
        problems.append(f"a qwen2 whose {a.num_heads} heads of {a.head_dim} are not its hidden size {a.hidden_size}")
    if a.family == "smollm3" and a.nope_layers != tuple(range(NOPE_STEP - 1, a.num_layers, NOPE_STEP)):
        problems.append(f"a smollm3 whose layers without RoPE ({list(a.nope_layers)}) are not every {NOPE_STEP}th")
    if a.rope_scaling is not None and a.rope_scaling.kind == "llama3" and name(a) != "llama":
        problems.append(f"Llama 3.1's scaling of RoPE in a {a.family}")
    if problems:
        raise UserError(f"llama.cpp does not support {' or '.join(problems)}; {_REMEDY}")
