"""Reads and writes the folders of `transformers`: config.json, safetensors, tokenizer."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError
from alpaca_jax.formats.names import weights
from alpaca_jax.formats.tensors import Read, Tensors
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import read_json

Dtype = Literal["float32", "bfloat16", "float16"]
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # what transformers 4 writes


@dataclasses.dataclass(frozen=True)
class Folder:
    """A Hugging Face folder; `read` reads one stacked weight as it is asked for."""

    architecture: Architecture
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    read: Read
    files: tuple[Path, ...]


def open(folder: Path, tokenizer: Tokenizer | None = None) -> Folder:
    """Returns the LLaMA in a folder (with `tokenizer` in place of its own); a UserError where it is another model, or not whole."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: neither config.json (Hugging Face) nor train/model/ (a run of ours) is there")
    config = read_json(folder / "config.json")
    try:
        architecture = _architecture(config)
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'} lacks {error.args[0]}; fetch it again, or give another model.source") from error
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error
    files = _weight_files(folder)
    tokenizer = tokenizer or Tokenizer.load(folder)
    read = _tensors(folder, files).reader(architecture)
    return Folder(architecture, tokenizer, _eos_ids(folder, config, tokenizer), read, tuple(files))


def export(
    folder: Path,
    architecture: Architecture,
    tokenizer: Tokenizer,
    read: Read,
    dtype: Dtype = "float32",
    eos_ids: tuple[int, ...] = (),
    extra: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda name: None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `folder` (absent or empty until then): weights in `dtype`, configs, tokenizer, chat template and the `extra` files.

    The folder appears whole or not at all. `read(path)` gives a weight in our layout; `progress(name)` is called after each tensor.
    A UserError where a weight is not finite in `dtype`.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    partial.mkdir(parents=True)
    try:
        _write_weights(partial, architecture, read, dtype, progress, shard_bytes)
        settings = {
            "config.json": _config(architecture, tokenizer, dtype, eos_ids),
            "generation_config.json": _generation(tokenizer, eos_ids),
        }
        texts = {name: to_json(value) for name, value in settings.items()} | dict(extra)
        for name, content in {**tokenizer.files(), **{name: text.encode() for name, text in texts.items()}}.items():
            (partial / name).write_bytes(content)
        os.replace(partial, folder)  # takes the place of an empty folder, and of nothing else
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _architecture(config: Mapping[str, Any]) -> Architecture:
    if config["model_type"] != "llama":
        raise UserError(f"a model of the type {config['model_type']!r}; only llama is read")
    for key, wanted in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if config.get(key, wanted) != wanted:
            raise UserError(f"{key} is {config[key]!r}; only {wanted!r} is supported")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"its RoPE frequencies are scaled ({kind}), which is not supported; give a model with plain RoPE")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("RoPE turns only a part of each head, which is not supported; give another model.source")
    heads = config["num_attention_heads"]
    return Architecture(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        norm_eps=config["rms_norm_eps"],
        max_positions=config["max_position_embeddings"],
        tie_embeddings=config.get("tie_word_embeddings", False),
    )


def _config(architecture: Architecture, tokenizer: Tokenizer, dtype: Dtype, eos_ids: tuple[int, ...]) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": architecture.rope_theta}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": architecture.norm_eps,
        "max_position_embeddings": architecture.max_positions,
        "rope_parameters": rope,  # transformers 5
        "rope_theta": architecture.rope_theta,  # transformers 4
        "tie_word_embeddings": architecture.tie_embeddings,
        "initializer_range": 0.02,
        **_special_ids(tokenizer, eos_ids),
        "dtype": dtype,  # transformers 5
        "torch_dtype": dtype,  # transformers 4
    }


def _generation(tokenizer: Tokenizer, eos_ids: tuple[int, ...]) -> dict[str, Any]:
    return {**_special_ids(tokenizer, eos_ids), "pad_token_id": tokenizer.pad_id}


def _special_ids(tokenizer: Tokenizer, eos_ids: tuple[int, ...]) -> dict[str, Any]:
    ids = eos_ids or (tokenizer.eos_id,)
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": list(ids) if len(ids) > 1 else ids[0]}


def _eos_ids(folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    generation = read_json(folder / "generation_config.json") if (folder / "generation_config.json").is_file() else {}
    ids = generation.get("eos_token_id", config.get("eos_token_id"))
    named = [] if ids is None else ids if isinstance(ids, list) else [ids]
    return tuple(dict.fromkeys((tokenizer.eos_id, *named)))


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        lacking = [name for name in names if not (folder / name).is_file()]
        if lacking:
            raise UserError(f"{folder} lacks {', '.join(lacking)}, which {INDEX} names; fetch them again")
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled:
        raise UserError(f"{folder} holds pickled weights only ({', '.join(pickled)}); save them as safetensors with transformers first")
    raise UserError(f"{folder} holds no weights: neither model.safetensors nor {INDEX} is there")


def _tensors(folder: Path, files: list[Path]) -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {}
    handles: dict[str, Any] = {}
    for file in files:
        try:
            handle = safe_open(file, framework="numpy")  # maps the file: nothing but its header is read here
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is not a whole safetensors file ({error}); fetch it again") from error
        for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
            shapes[name] = tuple(handle.get_slice(name).get_shape())
            handles[name] = handle

    def load(name: str) -> np.ndarray:
        try:
            return handles[name].get_tensor(name)
        except (SafetensorError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder}: {name} can't be read ({error}); only float32, float16 and bfloat16 weights are supported"
            ) from error

    return Tensors(folder, "huggingface", shapes, load)


def _write_weights(
    folder: Path, architecture: Architecture, read: Read, dtype: Dtype, progress: Callable[[str], None], shard_bytes: int
) -> None:
    written: list[dict[str, int]] = []  # of each shard, its tensors and their bytes
    for shard in _shards(_exported(architecture, read, dtype), shard_bytes):
        save_file(shard, folder / f"{len(written)}.safetensors", metadata={"format": "pt"})
        written.append({name: tensor.nbytes for name, tensor in shard.items()})
        for name in shard:
            progress(name)
    if len(written) == 1:
        os.rename(folder / "0.safetensors", folder / "model.safetensors")
        return
    files = [f"model-{number + 1:05}-of-{len(written):05}.safetensors" for number in range(len(written))]
    for number, file in enumerate(files):
        os.rename(folder / f"{number}.safetensors", folder / file)
    total = sum(sum(shard.values()) for shard in written)
    places = {name: file for file, shard in zip(files, written, strict=True) for name in shard}
    (folder / INDEX).write_text(to_json({"metadata": {"total_size": total}, "weight_map": places}))


def _exported(architecture: Architecture, read: Read, dtype: Dtype) -> Iterator[tuple[str, np.ndarray]]:
    for path, weight in weights(architecture).items():
        ours = read(path)
        assert ours.shape == weight.shape, (path, ours.shape, weight.shape)
        layers = ours if weight.name.stacked else ours[None]
        for (name, _), layer in zip(weight.tensors("huggingface"), layers, strict=True):
            tensor = np.ascontiguousarray(weight.name.to_theirs(layer), dtype=_numpy_dtype(dtype))
            if not np.isfinite(tensor).all():
                raise UserError(
                    f"{name} has values that are not finite in {dtype}; give a dtype with a wider range, or an earlier checkpoint"
                )
            yield name, tensor


def _shards(tensors: Iterator[tuple[str, np.ndarray]], limit: int) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    for name, tensor in tensors:
        if shard and sum(each.nbytes for each in shard.values()) + tensor.nbytes > limit:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def _numpy_dtype(dtype: Dtype) -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def to_json(value: Any) -> str:
    """Returns `value` as the JSON text of a settings file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
