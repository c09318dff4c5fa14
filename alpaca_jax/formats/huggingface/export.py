"""Writes folders for `transformers`: safetensors in shards, configs, tokenizer, chat template.

The layout of every shard is known before a weight is read. So its header is written first and tensors follow one by one, and an export
that was killed continues after the last whole shard.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats import safetensors
from alpaca_jax.formats.dtypes import Dtype, contiguous, finite, numpy_dtype
from alpaca_jax.formats.huggingface import config as huggingface_config
from alpaca_jax.formats.huggingface.reader import INDEX
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Weight, weights
from alpaca_jax.formats.tensors import VOCABULARY
from alpaca_jax.formats.writing import Partial, explained, read_ahead
from alpaca_jax.model.architecture import Architecture

SHARD_BYTES = 5 * 10**9
PIECE_BYTES = 64 * 10**6  # bytes of a table that are read and written at a time
CODES = {name: code for code, name in safetensors.NAMES.items()}
Progress = Callable[[str], None]


class ShardTensor(NamedTuple):
    """A tensor of the output."""

    name: str
    shape: tuple[int, ...]
    nbytes: int
    weight: Weight
    layer: int


def listing(architecture: Architecture, dtype: str) -> list[ShardTensor]:
    """Returns the tensors that an export writes, in order."""
    size = numpy_dtype(dtype).itemsize
    return [
        ShardTensor(name, shape, size * int(np.prod(shape)), weight, layer)
        for weight in weights(architecture).values()
        for layer, (name, shape) in enumerate(weight.tensors("huggingface"))
    ]


def export(
    folder: Path,
    model: Pretrained,
    dtype: Dtype | None = None,
    extra: Mapping[str, str] = MappingProxyType({}),
    progress: Progress = lambda name: None,
    shard_bytes: int = SHARD_BYTES,
    plan: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes `folder` (absent or empty until then): weights in `dtype` (default: as stored), configs, tokenizer, `extra` files.

    The folder appears whole or not at all; a killed export with the same `plan` is continued. Calls `progress(name)` after each tensor.
    A UserError where a weight is not finite in `dtype`, or the disk has no room.
    """
    dtype = dtype or model.dtype
    shards = _shards(listing(model.architecture, dtype), shard_bytes)
    size = sum(tensor.nbytes for shard in shards.values() for tensor in shard)
    partial = Partial(folder, {"plan": dict(plan), "dtype": dtype, "shards": {file: len(shard) for file, shard in shards.items()}}, size)
    try:
        with explained(folder):
            _write_shards(partial.folder, shards, model, dtype, progress)
            _write_settings(partial.folder, shards, model, dtype, extra)
        partial.finish()
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            partial.discard()
        raise


def _shards(tensors: Sequence[ShardTensor], limit: int) -> dict[str, list[ShardTensor]]:
    """The tensors of each file; a file has more than `limit` bytes only where a single tensor has."""
    shards: list[list[ShardTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{number + 1:05}-of-{len(shards):05}.safetensors": shard for number, shard in enumerate(shards)}


def _write_shards(folder: Path, shards: dict[str, list[ShardTensor]], model: Pretrained, dtype: str, progress: Progress) -> None:
    """Writes the shards that don't exist yet. Meanwhile the next piece is read, and the last shard is synced to disk."""
    with ThreadPoolExecutor(1) as syncer:
        synced: Future[None] | None = None
        for file, shard in shards.items():
            if not (folder / file).is_file():
                _write_shard(folder / f".{file}", shard, read_ahead(_pieces(shard, model, dtype)), dtype, progress)
                if synced is not None:
                    synced.result()
                synced = syncer.submit(_put_in_place, folder / f".{file}", folder / file)
            else:
                for tensor in shard:
                    progress(tensor.name)
        if synced is not None:
            synced.result()


def _write_shard(
    path: Path, shard: list[ShardTensor], pieces: Iterator[tuple[ShardTensor, np.ndarray, bool]], dtype: str, progress: Progress
) -> None:
    with path.open("wb") as file:
        file.write(_header(shard, dtype))
        for tensor, piece, last in pieces:
            file.write(piece.view(np.uint8).reshape(-1).data)
            if last:
                progress(tensor.name)


def _header(shard: list[ShardTensor], dtype: str) -> bytes:
    ends = list(itertools.accumulate(tensor.nbytes for tensor in shard))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for tensor, end in zip(shard, ends, strict=True):
        entries[tensor.name] = {"dtype": CODES[dtype], "shape": tensor.shape, "data_offsets": [end - tensor.nbytes, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def _put_in_place(written: Path, path: Path) -> None:
    """Gives a shard its final name once its bytes are on the disk: only then is it whole."""
    with written.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(written, path)


def _pieces(shard: list[ShardTensor], model: Pretrained, dtype: str) -> Iterator[tuple[ShardTensor, np.ndarray, bool]]:
    """Yields each tensor of a shard, tables in pieces of rows, and whether the piece is the tensor's last."""
    target = numpy_dtype(dtype)
    for tensor in shard:
        name = tensor.weight.name
        for index in indices(tensor):
            ours = model.read(name.path, index)
            theirs = name.to_theirs(ours[0] if name.stacked else ours)
            with np.errstate(over="ignore"):  # the error below names the tensor
                piece = contiguous(theirs, target)
            if not finite(piece):
                what = (
                    "holds NaN or infinities"
                    if not finite(contiguous(theirs, theirs.dtype))
                    else f"has values that are too large for {dtype}"
                )
                raise UserError(f"{model.source}: {tensor.name} {what}; give a dtype with a wider range, or an earlier checkpoint")
            yield tensor, piece, not index or index[0].stop == tensor.shape[0] or name.stacked


def indices(tensor: ShardTensor) -> list[tuple[slice, ...]]:
    """Returns the pieces in which a tensor's weight is read: a layer, the whole weight, or some rows of a table each."""
    if tensor.weight.name.stacked:
        return [(slice(tensor.layer, tensor.layer + 1),)]
    if tensor.weight.name.path not in VOCABULARY:
        return [()]
    rows = max(1, PIECE_BYTES * tensor.shape[0] // tensor.nbytes)
    return [(slice(start, min(start + rows, tensor.shape[0])),) for start in range(0, tensor.shape[0], rows)]


def _write_settings(folder: Path, shards: dict[str, list[ShardTensor]], model: Pretrained, dtype: Dtype, extra: Mapping[str, str]) -> None:
    settings = huggingface_config.files(model.architecture, model.tokenizer, dtype, model.eos_ids or (model.tokenizer.eos_id,))
    texts = {name: to_json(value) for name, value in settings.items()} | dict(extra)
    if len(shards) > 1:
        total = sum(tensor.nbytes for shard in shards.values() for tensor in shard)
        places = {tensor.name: file for file, shard in shards.items() for tensor in shard}
        texts[INDEX] = to_json({"metadata": {"total_size": total}, "weight_map": places})
    for name, content in {**model.tokenizer.files(), **{name: text.encode() for name, text in texts.items()}}.items():
        (folder / name).write_bytes(content)


def to_json(value: Any) -> str:
    """Returns `value` as JSON text."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
