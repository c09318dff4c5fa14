"""Reads and writes the folders of `transformers`: config.json, safetensors, tokenizer."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError
from alpaca_jax.formats import huggingface_config
from alpaca_jax.formats.huggingface_config import Dtype
from alpaca_jax.formats.names import weights
from alpaca_jax.formats.tensors import Read, Tensors
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import read_json

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
    architecture = huggingface_config.architecture(folder / "config.json")
    files = _weight_files(folder)
    tokenizer = tokenizer or Tokenizer.load(folder)
    eos_ids = tuple(dict.fromkeys((tokenizer.eos_id, *huggingface_config.eos_ids(folder))))
    return Folder(architecture, tokenizer, eos_ids, _tensors(folder, files).reader(architecture), tuple(files))


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
        settings = huggingface_config.files(architecture, tokenizer, dtype, eos_ids or (tokenizer.eos_id,))
        texts = {name: to_json(value) for name, value in settings.items()} | dict(extra)
        for name, content in {**tokenizer.files(), **{name: text.encode() for name, text in texts.items()}}.items():
            (partial / name).write_bytes(content)
        os.replace(partial, folder)  # takes the place of an empty folder, and of nothing else
    except SafetensorError as error:
        raise UserError(f"{partial}: the weights can't be written ({error}); is the disk full?") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        places = read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict):
            raise UserError(f"{folder / INDEX} has no weight_map; fetch it again")
        names = sorted(set(places.values()))
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
