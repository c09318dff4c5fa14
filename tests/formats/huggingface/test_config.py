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
    "llama with biases of the MLP": ({"model_type": "llama", "mlp_bias": True}, replaced(OURS, mlp_bias=True)),
    "nulls where transformers 4 had no value": (
        {"model_type": "llama", "mlp_bias": None, "tie_word_embeddings": None, "head_dim": None, "rope_theta": None, "hidden_act": None},
        OURS,
    ),
    "another name of SiLU": ({"model_type": "llama", "hidden_act": "swish"}, OURS),
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
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers has 1 entries; it must have 4"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers is 'many', and should be from 1 to 2,000"),
        ({"rms_norm_eps": 2.0}, r"norm_eps=2.0: .*\n  \(norm_eps is rms_norm_eps there\)"),
    ],
)
def test_what_is_refused(change, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, {"model_type": "llama"} | SIZES | change)
    assert str(tmp_path / "config.json") in str(caught.value)


WRONG = {
    "rms_norm_eps": ["1e-5", [], True, "=NaN", "=Infinity", "=1e400", 0, -1e-6, 1e-300],
    "rope_theta": ["10000", {}, "=NaN", "=Infinity", 0, -1.0, 1.0, 1e300, "=1" + 300 * "0"],
    "rope_scaling.factor": ["2", [2.0], "=NaN", "=Infinity", 0, -2.0, 0.5, 1e300],
    "rope_scaling.attention_factor": ["1", "=NaN", 0, -1.0, 1e300],
    "rope_scaling.beta_fast": ["1", "=NaN", 0, -1.0, 1e-320],
    "rope_scaling.original_max_position_embeddings": ["64", 0, -1, 2.5, 1 << 63],
    "rope_scaling.truncate": [0, "no"],
    "head_dim": ["8", [8], 0, -2, 1.5, 1 << 40],
    "hidden_size": [[], 0, 32.5, 1 << 40],
    "max_position_embeddings": ["64", 0, -1, 64.5, 1 << 63, "=1" + 300 * "0"],
    "num_hidden_layers": [None, {}, 0, -4, 10**7, 1 << 63],
    "num_key_value_heads": [[2, 2], 0, -1, 3, 1 << 40],
    "vocab_size": ["96", 0, -1, 1 << 40],
    "sliding_window": ["8", 0, -1, 1 << 63],
    "tie_word_embeddings": [1, "false", []],
    "mlp_bias": [1, "false", {}],
    "layer_types": ["sliding_attention", {}, 3],
    "rope_scaling": ["yarn", [], 2.0],
    "model_type": [None, 1, ["llama"], {}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_that_is_none_of_its_key_is_refused_by_file_and_key(key, value, tmp_path):
    place, _, inner = key.rpartition(".")
    config = {**SIZES, "model_type": "mistral", "sliding_window": 8}
    config[place or inner] = {"rope_type": "yarn", "factor": 2.0, inner: "HERE"} if place else "HERE"
    raw = isinstance(value, str) and value.startswith("=")  # JSON that Python's own doesn't write
    written = value[1:] if raw else json.dumps(value)
    (tmp_path / "config.json").write_text(json.dumps(config).replace('"HERE"', written))
    with pytest.raises(UserError) as caught:
        huggingface_config.architecture(tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(caught.value)
    assert inner in str(caught.value)
    assert len(str(caught.value)) < 600


def test_what_the_first_configs_left_out_is_as_in_transformers_and_said(tmp_path):
    transformers = pytest.importorskip("transformers")
    for family in huggingface_config.FAMILIES:
        given = {key: value for key, value in SIZES.items() if key not in huggingface_config.DEFAULTED}
        found = read(tmp_path, {**given, "model_type": family, "max_sequence_length": 256})
        theirs = transformers.AutoConfig.for_model(family)
        assert (found.max_positions, found.norm_eps) == (theirs.max_position_embeddings, theirs.rms_norm_eps)
        positions, eps, old = huggingface_config.assumed(tmp_path / "config.json")
        assert f"max_position_embeddings is not given, and taken to be {found.max_positions}" in positions
        assert f"rms_norm_eps is not given, and taken to be {found.norm_eps}" in eps
        assert "max_sequence_length (256) is not read" in old


@pytest.mark.parametrize(
    "key", ["model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"]
)
def test_a_size_that_nobody_can_guess_is_asked_for_by_name(key, tmp_path):
    config = {"model_type": "llama", **SIZES}
    del config[key]
    with pytest.raises(UserError, match=f'lacks {key}: add "{key}" there, with'):
        read(tmp_path, config)


def test_ids_of_special_tokens(tmp_path):
    def ids(generation, **config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return huggingface_config.eos_ids(tmp_path, 96)

    assert ids({}, eos_token_id=2) == [2]
    assert ids({"eos_token_id": [3, 4]}, eos_token_id=2) == [3, 4]
    assert ids({"eos_token_id": None}, eos_token_id=2) == []
    assert ids({}, eos_token_id=-1, pad_token_id=-1, bos_token_id=None) == []
    for wrong in (96, -2, 4 * 10**9, "2", 2.0, True, {}, [2, 96], [[2]]):
        with pytest.raises(UserError, match=r"generation_config.json: eos_token_id is .* below the vocab_size of 96"):
            ids({"eos_token_id": wrong})
    with pytest.raises(UserError, match="config.json: pad_token_id is 96"):
        ids({}, pad_token_id=96)
    with pytest.raises(UserError, match=r"generation_config.json: bos_token_id is \[1\]"):
        ids({"bos_token_id": [1]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 5000 + b"]" * 5000, "deep"),
        (b'{"model_type": "\xff"}', "not UTF-8"),
        (b'{"model_type": "\\ud800"}', "surrogate"),
        (b"[]", "an object is due"),
        (b"3", "an object is due"),
        (b'{"model_type": ', "not JSON"),
        (b" " * (5 << 20) + b"{}", "larger than"),
    ],
)
def test_what_is_no_config(content, message, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        huggingface_config.architecture(tmp_path / "config.json")
    assert "config.json" in str(caught.value)
