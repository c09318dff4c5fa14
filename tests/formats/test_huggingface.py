"""Random tiny models in both directions against `transformers`, and folders that aren't what they should be."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alpaca_jax.errors import UserError
from alpaca_jax.formats import huggingface, names, pretrained
from alpaca_jax.model import llama
from alpaca_jax.trainer.loss import response_loss

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers

KINDS = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "plain": {"num_key_value_heads": 4, "head_dim": 8},
    "one key head": {"num_key_value_heads": 1},
}


def _inputs(rows: int = 3, length: int = 20) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(1).integers(0, 96, (rows, length + 1)).astype(np.int32)
    shape = (rows, length)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), shape)
    ones = np.ones(shape, np.float32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": np.ones(shape, np.int32),
        "positions": positions,
        "weights": ones,
    }


def _logits(model: pretrained.Pretrained, params: dict[str, Any], batch: dict[str, np.ndarray]) -> np.ndarray:
    hidden = llama.forward(model.architecture, params, batch["tokens"], batch["segments"], batch["positions"])
    return np.asarray(llama.logits(params, hidden))


def _their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_in_both_directions(kind: str, make_llama: Any, tmp_path: Path) -> None:
    import transformers

    folder, theirs = make_llama(**KINDS[kind])
    model = pretrained.open(folder)
    params = pretrained.load_params(model)
    batch = _inputs()
    expected = _their_logits(theirs, batch["tokens"])
    np.testing.assert_allclose(_logits(model, params, batch), expected, atol=1e-4, rtol=0)

    huggingface.export(tmp_path / "hf", model.architecture, model.tokenizer, model.read, eos_ids=model.eos_ids)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values())
    assert again.dtype == theirs.dtype
    np.testing.assert_array_equal(_their_logits(again, batch["tokens"]), expected)
    for (name, tensor), (name_again, tensor_again) in zip(theirs.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == name_again
        assert (tensor == tensor_again).all(), name


def test_weights_born_here_reach_transformers(make_llama: Any, tmp_path: Path) -> None:
    import transformers

    folder, _ = make_llama()
    model = pretrained.open(folder)
    params = jax.tree.map(lambda w: 3.0 * w, llama.init(model.architecture, jax.random.key(7)))
    held = dict(names.leaves(jax.tree.map(np.asarray, params)))
    huggingface.export(tmp_path / "hf", model.architecture, model.tokenizer, held.__getitem__)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    batch = _inputs()
    np.testing.assert_allclose(_logits(model, params, batch), _their_logits(theirs, batch["tokens"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["grouped", "tied"])
def test_gradients(kind: str, make_llama: Any) -> None:
    import torch

    folder, theirs = make_llama(**KINDS[kind])
    model = pretrained.open(folder)
    batch = _inputs()

    def mean(params: dict[str, Any]) -> jax.Array:
        total, count = response_loss(model.architecture, params, batch)
        return total / count

    loss, gradients = jax.value_and_grad(mean)(pretrained.load_params(model))
    logits = theirs(torch.from_numpy(batch["tokens"].astype(np.int64))).logits
    their_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch["targets"].astype(np.int64)).flatten())
    their_loss.backward()
    assert float(loss) == pytest.approx(their_loss.item(), abs=1e-5)
    expected = {name: weight.grad.numpy() for name, weight in theirs.named_parameters()}
    ours = dict(names.leaves(gradients))
    for path, weight in names.weights(model.architecture).items():
        layers = ours[path] if weight.name.stacked else ours[path][None]
        for (name, shape), layer in zip(weight.tensors("huggingface"), np.asarray(layers), strict=True):
            assert shape == expected[name].shape
            np.testing.assert_allclose(weight.name.to_theirs(layer), expected.pop(name), rtol=1e-3, atol=1e-3 * 0.01, err_msg=name)
    assert not expected


def test_shards_are_read_and_written(make_llama: Any, tmp_path: Path) -> None:
    import transformers

    folder, theirs = make_llama(shard="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    model = pretrained.open(folder)
    huggingface.export(tmp_path / "hf", model.architecture, model.tokenizer, model.read, shard_bytes=20_000)
    files = sorted(path.name for path in (tmp_path / "hf").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 2
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert all((theirs.state_dict()[name] == tensor).all() for name, tensor in again.state_dict().items())
    for path in names.weights(model.architecture):
        np.testing.assert_array_equal(pretrained.open(tmp_path / "hf").read(path), model.read(path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_as_it_is(dtype: huggingface.Dtype, make_llama: Any, tmp_path: Path) -> None:
    import torch
    import transformers

    folder, theirs = make_llama()
    model = pretrained.open(folder)
    huggingface.export(tmp_path / "hf", model.architecture, model.tokenizer, model.read, dtype=dtype)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert again.dtype == getattr(torch, dtype)
    for name, tensor in theirs.state_dict().items():
        assert (again.state_dict()[name] == tensor.to(getattr(torch, dtype))).all(), name
    reread = pretrained.open(tmp_path / "hf").read(("embed", "weight"))
    assert reread.dtype.name == dtype
    assert pretrained.load_params(pretrained.open(tmp_path / "hf"), "bfloat16")["norm"]["scale"].dtype == jnp.bfloat16


def test_values_too_large_for_a_dtype_leave_nothing_behind(make_llama: Any, tmp_path: Path) -> None:
    model = pretrained.open(make_llama()[0])
    with pytest.raises(UserError, match="not finite in float16"):
        huggingface.export(tmp_path / "hf", model.architecture, model.tokenizer, lambda path: model.read(path) * 1e6, dtype="float16")
    assert not list(tmp_path.iterdir())


def test_first_layers_and_more_rows(make_llama: Any) -> None:
    model = pretrained.open(make_llama()[0])
    params = pretrained.load_params(model, keep_layers=2, stored_vocab=128)
    assert params["layers"]["mlp"]["gate"].shape[0] == 2
    assert params["embed"]["weight"].shape == params["head"]["weight"].shape == (128, 32)
    np.testing.assert_array_equal(params["embed"]["weight"][:96], model.read(("embed", "weight")))
    assert not params["head"]["weight"][96:].any()
    with pytest.raises(UserError, match="has 3 layers"):
        model.first_layers(4)


def test_old_and_new_config_spell_rope_their_way(make_llama: Any) -> None:
    folder, _ = make_llama()
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 123.0}))
    assert pretrained.open(folder).architecture.rope_theta == 123.0


def test_bad_weights(make_llama: Any) -> None:
    folder, _ = make_llama()
    file = folder / "model.safetensors"
    tensors = load_file(file)
    whole = file.read_bytes()

    def problem(content: dict[str, np.ndarray] | bytes) -> str:
        file.write_bytes(content) if isinstance(content, bytes) else save_file(content, file)
        with pytest.raises(UserError) as caught:
            pretrained.open(folder)
        return str(caught.value)

    assert "not a whole safetensors file" in problem(whole[:-100])
    assert "not a whole safetensors file" in problem(whole[:5])
    assert "not a whole safetensors file" in problem((1 << 40).to_bytes(8, "little") + whole[8:])
    lacking = {name: tensor for name, tensor in tensors.items() if "layers.1.self_attn" not in name and name != "model.norm.weight"}
    message = problem(lacking | {"model.layers.0.mlp.extra.weight": np.zeros(3, np.float32)})
    for part in ("missing (5)", "model.norm.weight", "layers.1.self_attn.q_proj", "not part of a LLaMA (1): model.layers.0.mlp.extra"):
        assert part in message
    message = problem(tensors | {"lm_head.weight": np.zeros((95, 32), np.float32)})
    assert "lm_head.weight has the shape [95, 32], its header asks for [96, 32]" in message
    file.unlink()
    with pytest.raises(UserError, match="holds no weights"):
        pretrained.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "only llama is read"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
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
