"""config.json of every family as transformers 4 and 5 spell it, and what is refused by the name of its key."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.formats.huggingface import config as huggingface_config
from alpaca_jax.model.architecture import Architecture, RopeScaling

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
OURS = Architecture(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    norm_eps=1e-6,
    max_positions=64,
)
QWEN2 = dataclasses.replace(OURS, family="qwen2", qkv_bias=True)
QWEN3 = dataclasses.replace(OURS, family="qwen3", qk_norm=True, head_dim=128)
SMOLLM3 = dataclasses.replace(OURS, family="smollm3", rope_theta=2e6, tie_embeddings=True, nope_layers=(3,))
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3_OURS = RopeScaling(kind="llama3", factor=8.0, original_max_positions=16)
YARN = RopeScaling(kind="yarn", factor=4.0, original_max_positions=64)
LONG = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2, 3, 4, 5]}
LONGROPE = RopeScaling(
    kind="longrope", factor=4.0, original_max_positions=16, short_factor=(1.0, 1.1, 1.2, 1.3), long_factor=(2.0, 3.0, 4.0, 5.0)
)


def read(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return huggingface_config.architecture(tmp_path / "config.json")


def written(architecture):
    tokenizer = SimpleNamespace(bos_id=1, pad_id=2)
    return huggingface_config.files(architecture, tokenizer, "float32", (2,))["config.json"]


def replaced(architecture, **changes):
    return dataclasses.replace(architecture, **changes)


def rope(**changes):
    return replaced(OURS, rope_theta=500.0, **changes)


SPELLINGS = {
    "theta in transformers 4": ({"model_type": "llama", "rope_theta": 500.0, "rope_scaling": None}, rope()),
    "theta in transformers 5": ({"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, rope()),
    "llama 2 without heads": ({"model_type": "llama", "num_key_value_heads": None}, replaced(OURS, num_kv_heads=4)),
    "llama 3.1 in 4": (
        {"model_type": "llama", "rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        rope(rope_scaling=LLAMA3_OURS),
    ),
    "llama 3.1 in 5": (
        {"model_type": "llama", "rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3}},
        rope(rope_scaling=LLAMA3_OURS),
    ),
    "linear, by its old name of the type": (
        {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2}},
        replaced(OURS, rope_scaling=RopeScaling(kind="linear", factor=2.0)),
    ),
    "dynamic begins where the positions end": (
        {"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        replaced(OURS, max_positions=128, rope_scaling=RopeScaling(kind="dynamic", factor=2.0, original_max_positions=64)),
    ),
    "qwen 2.5's recipe for yarn": (
        {"model_type": "qwen2", "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
        replaced(QWEN2, max_positions=256, rope_scaling=YARN),
    ),
    "yarn without the original": (
        {"model_type": "llama", "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": None}},
        replaced(OURS, max_positions=256, rope_scaling=YARN),
    ),
    "longrope, the original beside it": (
        {"model_type": "llama", "original_max_position_embeddings": 16, "rope_scaling": {"type": "longrope", **LONG}},
        replaced(OURS, rope_scaling=LONGROPE),
    ),
    "llama with biases": ({"model_type": "llama", "attention_bias": True}, replaced(OURS, qkv_bias=True, out_bias=True)),
    "mistral 0.1": ({"model_type": "mistral", "sliding_window": 8}, replaced(OURS, family="mistral", sliding_window=8)),
    "mistral 0.3": ({"model_type": "mistral", "sliding_window": None}, replaced(OURS, family="mistral")),
    "mistral, the default": ({"model_type": "mistral"}, replaced(OURS, family="mistral", sliding_window=4096)),
    "qwen2, no window": (
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
        QWEN2,
    ),
    "qwen2, by the first layer": (
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        replaced(QWEN2, sliding_window=8, sliding_layers=(1, 2, 3)),
    ),
    "qwen2, by layers": (
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"] * 4},
        replaced(QWEN2, sliding_window=8),
    ),
    "qwen3": ({"model_type": "qwen3"}, QWEN3),
    "qwen3 with biases": (
        {"model_type": "qwen3", "head_dim": 16, "attention_bias": True},
        replaced(QWEN3, head_dim=16, qkv_bias=True, out_bias=True),
    ),
    "smollm3, by interval": ({"model_type": "smollm3"}, SMOLLM3),
    "smollm3, by layers": (
        {
            "model_type": "smollm3",
            "no_rope_layers": [1, 0, 1, 1, 1],
            "layer_types": ["full_attention"] * 4,
            "use_sliding_window": False,
            "rope_theta": 5e6,
            "tie_word_embeddings": False,
        },
        replaced(SMOLLM3, nope_layers=(1,), rope_theta=5e6, tie_embeddings=False),
    ),
    "smollm3, sliding without RoPE": (
        {"model_type": "smollm3", "use_sliding_window": True, "sliding_window": 8},
        replaced(SMOLLM3, sliding_window=8, sliding_layers=(3,)),
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_is_read_and_written_for_both_versions(spelling, tmp_path):
    config, expected = SPELLINGS[spelling]
    assert read(tmp_path, SIZES | config) == expected
    new = written(expected)
    assert read(tmp_path, new) == expected
    for_4 = {key: value for key, value in new.items() if key not in ("rope_parameters", "layer_types")}
    for_5 = {key: value for key, value in new.items() if key not in ("rope_theta", "rope_scaling")}
    assert read(tmp_path, for_4) == read(tmp_path, for_5) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; llama, mistral, qwen2, qwen3, smollm3 are read: give another model.source"),
        ({"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe'"),
        ({"num_local_experts": 8}, "num_local_experts is 8: a mixture of experts"),
        ({"mlp_bias": True}, "mlp_bias is True; only False is supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is set"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "rope_scaling has the rope_type 'mrope'; known are default, linear, dynamic, llama3"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters differs between layers"),
        ({"rope_scaling": {"rope_type": "linear"}}, "lacks rope_scaling.factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks rope_scaling.low_freq_factor"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "rope_scaling: longrope needs short_factor and long_factor"),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 4}, "all layers of a mistral must be alike"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 4}, "alone without use_sliding_window"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"] * 3}, "it must have 4 entries"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers has 1 numbers for 4 layers"),
        ({"num_hidden_layers": "many"}, r"num_layers: .*\n  \(num_layers is num_hidden_layers there\)"),
    ],
)
def test_what_is_refused(change, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, {"model_type": "llama"} | SIZES | change)
    assert str(tmp_path / "config.json") in str(caught.value)
