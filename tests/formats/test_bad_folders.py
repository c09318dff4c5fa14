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


@pytest.mark.parametrize(
    "change",
    [
        lambda header: b"[" * 5000 + b"]" * 5000,
        lambda header: header.replace(b'{"', b'{"\xff', 1),
        lambda header: header.replace(b'"model.norm.weight"', b'"\\ud800"', 1),
        lambda header: header.replace(b'"model.norm.weight"', b'"lm_head.weight"', 1),
        lambda header: b"[]",
        lambda header: b"3",
        lambda header: b'{"a": 3}',
        lambda header: b'{"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 4]}}',
        lambda header: b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 18446744073709551615]}}',
        lambda header: b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296, 4], "data_offsets": [0, 4]}}',
    ],
)
def test_a_hostile_header(change: Callable[[bytes], bytes], make_llama: Any) -> None:
    folder, _ = make_llama()
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = change(whole[8 : 8 + length])
    assert header != whole[8 : 8 + length]
    file.write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + length :])
    assert f"{file} is not a whole safetensors file" in _problem(folder)


@pytest.mark.parametrize("dtype", ["U8", "I8", "I32", "BOOL", "F8_E4M3", "F8_E5M2"])
def test_weights_of_a_dtype_that_is_no_plain_number(dtype: str, make_llama: Any) -> None:
    folder, _ = make_llama()
    header = json.dumps({"lm_head.weight": {"dtype": dtype, "shape": [8], "data_offsets": [0, 32 if dtype == "I32" else 8]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(32 if dtype == "I32" else 8)
    (folder / "model.safetensors").write_bytes(content)
    assert f"lm_head.weight is stored as {dtype}; only F64, F32, F16, BF16 can be read" in _problem(folder)


def test_a_single_file_and_an_index(make_llama: Any) -> None:
    folder, _ = make_llama(shard="20KB")
    index = folder / huggingface.INDEX
    content = index.read_text()
    shards = sorted(set(json.loads(content)["weight_map"].values()))
    tensors = {name: tensor for shard in shards for name, tensor in load_file(folder / shard).items()}
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "model.safetensors")
    message = _problem(folder)
    assert f"{folder} holds two sets of weights: model.safetensors, and model-" in message
    assert f"delete model.safetensors, or {huggingface.INDEX} and its files" in message

    for shard in shards:  # an index that was left behind
        (folder / shard).rename(folder / f"old-{shard}")
    model = pretrained.open(folder)
    np.testing.assert_array_equal(model.read(("norm", "scale")), tensors["model.norm.weight"] + 1)
    assert f"left out: {huggingface.INDEX}, since none of the files that it names is there" in model.notes
    assert any(note.startswith("left out: old-model-00001") for note in model.notes)

    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "model.safetensors")}))  # one model, named twice
    assert not any(huggingface.INDEX in note for note in pretrained.open(folder).notes)
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*tensors, "more"], "model.safetensors")}))
    assert "named in it, but not in the file it names: more" in _problem(folder)
    index.write_text(json.dumps({"weight_map": {}}))
    assert "names 0 files of weights" in _problem(folder)
    index.write_text(json.dumps({"weight_map": {f"w{number}": f"{number}.safetensors" for number in range(6_000)}}))
    assert "names 6,000 files of weights" in _problem(folder)
    index.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    (folder / "consolidated.00.pth").write_bytes(b"")
    assert any("consolidated.00.pth, old-" in note and "pytorch_model.bin" in note for note in pretrained.open(folder).notes)


def test_a_config_that_claims_more_layers_than_there_are(make_llama: Any) -> None:
    folder, _ = make_llama()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2_000}))
    message = _problem(folder)
    assert "model.layers.{3-1999}.mlp.up_proj.weight" in message and len(message) < 3000
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**7}))
    assert "num_hidden_layers is 10000000, and should be from 1 to 2,000" in _problem(folder)


def test_ids_beyond_the_vocabulary(make_llama: Any) -> None:
    folder, _ = make_llama()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 96]}))
    assert f"{folder / 'generation_config.json'}: eos_token_id is [2, 96]" in _problem(folder)


def test_a_source_that_nobody_may_read(make_llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = make_llama()

    def refused(*arguments: Any) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "config.json"))

    monkeypatch.setattr(huggingface, "open_folder", refused)
    assert f"{folder / 'config.json'} can't be read (Permission denied)" in _problem(folder)


def test_no_answer_ends_with_the_token_that_begins_a_text(make_llama: Any) -> None:
    folder, _ = make_llama()
    for ids, expected in (([2, 1, 5], (2, 5)), (1, (2,)), (None, (2,)), (-1, (2,))):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
        assert pretrained.open(folder).eos_ids == expected  # of the tiny tokenizer, 1 is BOS and 2 is EOS
