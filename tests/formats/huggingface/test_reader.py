"""Random tiny models in both directions against `transformers`; pieces of weights; exports that are killed or have no room."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from alpaca_jax.errors import UserError
from alpaca_jax.formats import files, names, pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.dtypes import Dtype
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.huggingface import reader as huggingface
from alpaca_jax.formats.model import in_memory
from alpaca_jax.model import llama
from alpaca_jax.model.tree import flatten
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives.sft import response_loss

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

    huggingface_export.export(tmp_path / "hf", model)
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
    huggingface_export.export(tmp_path / "hf", in_memory(model.architecture, model.tokenizer, params))
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
        total, count = response_loss(Forward(model.architecture), params, jax.device_put(batch))
        return total / count

    loss, gradients = jax.value_and_grad(mean)(pretrained.load_params(model))
    logits = theirs(torch.from_numpy(batch["tokens"].astype(np.int64))).logits
    their_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch["targets"].astype(np.int64)).flatten())
    their_loss.backward()
    assert float(loss) == pytest.approx(their_loss.item(), abs=1e-5)
    expected = {name: weight.grad.numpy() for name, weight in theirs.named_parameters()}
    ours = flatten(gradients)
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
    huggingface_export.export(tmp_path / "hf", model, shard_bytes=20_000)
    files = sorted(path.name for path in (tmp_path / "hf").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 2
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert all((theirs.state_dict()[name] == tensor).all() for name, tensor in again.state_dict().items())
    for path in names.weights(model.architecture):
        np.testing.assert_array_equal(pretrained.open(tmp_path / "hf").read(path), model.read(path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_as_it_is(dtype: Dtype, make_llama: Any, tmp_path: Path) -> None:
    import torch
    import transformers

    folder, theirs = make_llama()
    model = pretrained.open(folder)
    huggingface_export.export(tmp_path / "hf", model, dtype=dtype)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert again.dtype == getattr(torch, dtype)
    for name, tensor in theirs.state_dict().items():
        assert (again.state_dict()[name] == tensor.to(getattr(torch, dtype))).all(), name
    reread = pretrained.open(tmp_path / "hf").read(("embed", "weight"))
    assert reread.dtype.name == dtype
    assert pretrained.load_params(pretrained.open(tmp_path / "hf"), "bfloat16")["norm"]["scale"].dtype == jnp.bfloat16


@pytest.mark.parametrize(("factor", "message"), [(1e6, "too large for float16"), (np.nan, "NaN or infinities")])
def test_values_that_are_no_numbers_are_named_and_leave_nothing_behind(
    factor: float, message: str, make_llama: Any, tmp_path: Path
) -> None:
    model = pretrained.open(make_llama()[0])

    def read(path: names.Path, index: names.Index = ()) -> np.ndarray:
        weight = model.read(path, index)
        return weight * np.float32(factor) if path[-1] == "up" and index[0].start == 1 else weight

    with pytest.raises(UserError, match=rf"model\.layers\.1\.mlp\.up_proj\.weight.*{message}"):
        huggingface_export.export(tmp_path / "hf", dataclasses.replace(model, read=read), dtype="float16")
    assert not list(tmp_path.iterdir())


def test_a_killed_export_goes_on_behind_its_last_whole_shard(make_llama: Any, tmp_path: Path) -> None:
    model = pretrained.open(make_llama()[0])
    huggingface_export.export(tmp_path / "straight", model, shard_bytes=20_000)
    asked: list[names.Path] = []

    def read(path: names.Path, index: names.Index = ()) -> np.ndarray:
        asked.append(path)
        if len(asked) == 20:
            raise KeyboardInterrupt
        return model.read(path, index)

    with pytest.raises(KeyboardInterrupt):
        huggingface_export.export(tmp_path / "hf", dataclasses.replace(model, read=read), shard_bytes=20_000)
    assert not (tmp_path / "hf").exists()
    whole = {file.name: file.stat().st_mtime_ns for file in (tmp_path / ".hf.partial").glob("model-*.safetensors")}
    assert 1 < len(whole) < len(list((tmp_path / "straight").glob("*.safetensors")))
    before = len(asked)
    huggingface_export.export(tmp_path / "hf", dataclasses.replace(model, read=read), shard_bytes=20_000)
    assert len(asked) - before < len(huggingface_export.listing(model.architecture, "float32"))
    assert whole.items() <= {file.name: file.stat().st_mtime_ns for file in (tmp_path / "hf").iterdir()}.items()
    for file in (tmp_path / "straight").iterdir():
        assert (tmp_path / "hf" / file.name).read_bytes() == file.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"straight", "hf"}


def test_another_export_does_not_go_on_with_what_is_there(make_llama: Any, tmp_path: Path) -> None:
    model = pretrained.open(make_llama()[0])
    left = tmp_path / ".hf.partial"
    left.mkdir()
    (left / "plan.json").write_text("{}")
    (left / "model.safetensors").write_bytes(b"another's")
    huggingface_export.export(tmp_path / "hf", model)
    np.testing.assert_array_equal(pretrained.open(tmp_path / "hf").read(("norm", "scale")), model.read(("norm", "scale")))


def test_too_little_disk_is_said_before_anything_is_written(make_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pretrained.open(make_llama()[0])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=70_000))
    with pytest.raises(UserError, match=r"will take .* GB, and the disk of .* has .* GB left: make room"):
        huggingface_export.export(tmp_path / "hf", model)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_what_the_next_start_goes_on_with(
    make_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pretrained.open(make_llama()[0])
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full; make room and start the same command again"):
        huggingface_export.export(tmp_path / "hf", model, shard_bytes=20_000)
    assert [path.name for path in tmp_path.iterdir()] == [".hf.partial"]
    huggingface_export.export(tmp_path / "hf", model, shard_bytes=20_000)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_an_index_names_every_tensor_once(make_llama: Any, tmp_path: Path) -> None:
    model = pretrained.open(make_llama()[0])
    huggingface_export.export(tmp_path / "hf", model, shard_bytes=20_000)
    index = json.loads((tmp_path / "hf" / huggingface.INDEX).read_text())
    found = [(name, file.name) for file in (tmp_path / "hf").glob("*.safetensors") for name in load_file(file)]
    assert sorted(found) == sorted(index["weight_map"].items())
    assert len({name for name, _ in found}) == len(found)
    assert index["metadata"]["total_size"] == sum(
        t.nbytes for file in (tmp_path / "hf").glob("*.safetensors") for t in load_file(file).values()
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_piece_is_the_same_as_that_piece_of_the_whole(opened: pretrained.Pretrained, data: st.DataObject) -> None:
    path, weight = data.draw(st.sampled_from(sorted(names.weights(opened.architecture).items())))
    bounds = [sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in weight.shape]
    index = tuple(
        slice(start, max(stop, start + 1) if start < size else stop) for (start, stop), size in zip(bounds, weight.shape, strict=True)
    )
    if index[0].start == index[0].stop:
        index = (slice(0, 1), *index[1:])
    np.testing.assert_array_equal(opened.read(path, index), opened.read(path)[index])


@pytest.fixture(scope="module")
def opened(make_llama: Any) -> pretrained.Pretrained:
    return pretrained.open(make_llama(shard="20KB")[0])


def test_a_piece_reads_its_own_bytes_only(opened: pretrained.Pretrained, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    real = files.read_at
    monkeypatch.setattr(files, "read_at", lambda *arguments: counted.append(real(*arguments)) or counted[-1])
    for path, weight in names.weights(opened.architecture).items():
        for dim in range(len(weight.shape)):
            if dim == len(weight.shape) - 1 and path[-1] in ("query", "key", "value"):
                continue  # half a head: RoPE's pairs lie apart in some formats, so that whole heads are read
            counted.clear()
            half = weight.shape[dim] // 2
            piece = opened.read(path, (*(slice(None),) * dim, slice(half)))
            whole_head = path[-1] == "out" and dim == 2
            assert sum(counted) == piece.nbytes * (weight.shape[2] / half if whole_head else 1), (path, dim)


def test_first_layers_and_more_rows(make_llama: Any) -> None:
    folder = make_llama()[0]
    model = pretrained.open(folder)
    params = pretrained.load_params(pretrained.open(ModelConfig(source=str(folder), keep_layers=2)), stored_vocab=128)
    assert params["layers"]["mlp"]["gate"].shape[0] == 2
    assert params["embed"]["weight"].shape == params["head"]["weight"].shape == (128, 32)
    np.testing.assert_array_equal(params["embed"]["weight"][:96], model.read(("embed", "weight")))
    assert not params["head"]["weight"][96:].any()
    with pytest.raises(UserError, match="has 3 layers"):
        pretrained.open(ModelConfig(source=str(folder), keep_layers=4))


def test_old_and_new_config_spell_rope_their_way(make_llama: Any) -> None:
    folder, _ = make_llama()
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 123.0}))
    assert pretrained.open(folder).architecture.rope_theta == 123.0
