"""Hugging Face folders that aren't what they should be: each is refused by name, or what was done is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import reader as huggingface

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers


def _problem(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        pretrained.open(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    "cut",
    [
        lambda whole: whole[:-100],
        lambda whole: whole[:5],
        lambda whole: whole + b"more",
        lambda whole: (1 << 40).to_bytes(8, "little") + whole[8:],
        lambda whole: whole.replace(b"[96,32]", b"[96,64]", 1),
        lambda whole: whole.replace(b'"F32"', b'"F16"', 1),
        lambda whole: whole.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1),
        lambda whole: whole[:8] + b"x" * 40 + whole[48:],
    ],
)
def test_a_header_that_lies(cut: Callable[[bytes], bytes], make_llama: Any) -> None:
    folder, _ = make_llama()
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    assert cut(whole) != whole
    file.write_bytes(cut(whole))
    message = _problem(folder)
    assert "not a whole safetensors file" in message
    assert str(file) in message


def test_tensors_that_do_not_fit_are_named_all_at_once(make_llama: Any) -> None:
    folder, _ = make_llama()
    file = folder / "model.safetensors"
    tensors = load_file(file)
    lacking = {name: tensor for name, tensor in tensors.items() if "layers.1.self_attn" not in name and name != "model.norm.weight"}
    lacking |= {f"model.layers.{layer}.mlp.extra.weight": np.zeros(3, np.float32) for layer in (0, 2)}
    lacking["lm_head.weight"] = np.zeros((95, 32), np.float32)
    save_file(lacking, file)
    message = _problem(folder)
    for part in (
        "missing:\n    model.layers.1.self_attn.q_proj.weight",
        "    model.norm.weight",
        "not part of a llama model of these sizes:\n    model.layers.{0,2}.mlp.extra.weight",
        "lm_head.weight has the shape [95, 32], the configuration needs [96, 32]",
    ):
        assert part in message
    file.unlink()
    assert "holds no weights" in _problem(folder)


def test_a_padded_vocabulary_is_trimmed_and_said(make_llama: Any) -> None:
    folder, _ = make_llama()
    tensors = load_file(folder / "model.safetensors")
    padded = {
        name: np.pad(tensor, ((0, 32), (0, 0))) if tensor.shape[0] == 96 and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
    padded = {name: tensor if "layers" not in name else tensors[name] for name, tensor in padded.items()}
    save_file(padded, folder / "model.safetensors")
    model = pretrained.open(folder)
    assert "model.embed_tokens.weight has 128 rows, 32 of them padding, which is left out" in model.notes
    assert "the vocabulary has 96 rows, 78 of them without a token; they are kept" in model.notes
    np.testing.assert_array_equal(model.read(("head", "weight")), tensors["lm_head.weight"])


def test_tied_tables_that_are_both_stored(make_llama: Any) -> None:
    folder, _ = make_llama(tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    embed = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embed}, folder / "model.safetensors")
    assert "lm_head.weight is stored beside the embedding that it is tied to, and left out" in pretrained.open(folder).notes
    save_file(tensors | {"lm_head.weight": embed + 1}, folder / "model.safetensors")
    assert "says tie_word_embeddings, but lm_head.weight differs" in _problem(folder)


def test_an_index_that_lies(make_llama: Any) -> None:
    folder, _ = make_llama(shard="20KB")
    path = folder / huggingface.INDEX
    index = json.loads(path.read_text())
    places = index["weight_map"]
    files_ = sorted(set(places.values()))

    def problem(changed: dict[str, str]) -> str:
        path.write_text(json.dumps(index | {"weight_map": changed}))
        return _problem(folder)

    assert "points outside its folder (../secret.safetensors)" in problem(places | {"lm_head.weight": "../secret.safetensors"})
    assert "points outside its folder (/etc/passwd)" in problem(places | {"lm_head.weight": "/etc/passwd"})
    assert "lacks other.safetensors" in problem(places | {"lm_head.weight": "other.safetensors"})
    elsewhere = next(file for file in files_ if file != places["lm_head.weight"])
    assert "not in the file it names: lm_head.weight" in problem(places | {"lm_head.weight": elsewhere})
    gone = {name: file for name, file in places.items() if name != "model.norm.weight"}
    assert "not named in it: model.norm.weight" in problem(gone)
    path.write_text("[]")
    assert f"{path}: an object is due here, and it holds a list" in _problem(folder)
    for weights in ([], 3, {"a": 1}, None):
        path.write_text(json.dumps({"weight_map": weights}))
        assert f"{path} has no weight_map" in _problem(folder)
    path.unlink()
    assert "no index of their content" in _problem(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"attention_bias": True}, r"missing:\s+model\.layers\.\{0-2\}\.self_attn\.q_proj\.bias"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "lacks rope_parameters.low_freq_factor"),
        ({"vocab_size": 10}, "the tokenizer has"),
        ({"num_hidden_layers": 4}, "missing"),
        ({"num_key_value_heads": 3}, "must be a multiple"),
    ],
)
def test_another_model(change: dict[str, Any], message: str, make_llama: Any) -> None:
    folder, _ = make_llama()
    config = {**json.loads((folder / "config.json").read_text()), **change}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    if change == {"vocab_size": 10}:
        tensors = load_file(folder / "model.safetensors")
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:10]
        save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=message):
        pretrained.open(folder)
