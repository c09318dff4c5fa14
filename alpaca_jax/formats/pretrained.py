"""Opens a model of any format, and loads its weights onto the devices."""

import dataclasses
import math
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alpaca_jax import storage
from alpaca_jax.errors import UserError
from alpaca_jax.formats import difference, native, quantized
from alpaca_jax.formats import source as sources
from alpaca_jax.formats.adapter import reader as adapter
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.dtypes import finite
from alpaca_jax.formats.gguf import reader as gguf
from alpaca_jax.formats.huggingface import reader as huggingface
from alpaca_jax.formats.meta import reader as meta
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, weights, whole
from alpaca_jax.formats.pruning import choice
from alpaca_jax.formats.pruning.cut import cut
from alpaca_jax.formats.pruning.kept import Kept
from alpaca_jax.formats.tensors import VOCABULARY
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.nf4 import Quantized
from alpaca_jax.model.tree import unflatten
from alpaca_jax.tokenizer import Tokenizer

SHAPING = (
    *("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"),
    *("tie_embeddings", "qkv_bias", "out_bias", "qk_norm", "mlp_bias"),
)
Bounds = tuple[tuple[int, int], ...]
AVERAGE = "#ema"  # appended to the folder of a training run: the average of its weights
BIT_DIFFERENCE = "weight_difference.json"  # the manifest of a format of version 0.1


def open(model: ModelConfig | str | os.PathLike[str], kept: Kept | None = None) -> Pretrained:
    """Returns the model of `model.source` (or of a bare source), in any format; of a smaller one, the parts `kept`, or as its settings say.

    Reads only headers and the tokenizer, unless it has to choose which parts to keep. With `model.architecture` instead of a source there
    are no weights to read. A UserError says what is wrong with the source, and the remedy.
    """
    config = model if isinstance(model, ModelConfig) else ModelConfig(source=os.fspath(model))
    tokenizer = None if config.tokenizer is None else read_tokenizer(config.tokenizer, config.cache)
    if config.source is None:
        pretrained = _random(config.architecture, tokenizer)
    else:
        try:
            pretrained = _open(config, tokenizer)
        except OSError as error:
            raise UserError(
                f"{error.filename or config.source} can't be read ({error.strerror or error}); give another model.source"
            ) from error
        _check_sizes(pretrained, config.architecture)
    if pretrained.tokenizer.vocab_size > pretrained.architecture.vocab_size:
        sizes = f"{pretrained.tokenizer.vocab_size} tokens, the model {pretrained.architecture.vocab_size} rows for them"
        raise UserError(f"{pretrained.source}: the tokenizer has {sizes}; give the model.tokenizer that the model was trained with")
    if (more := pretrained.architecture.vocab_size - pretrained.tokenizer.vocab_size) > 0:
        note = f"the vocabulary has {pretrained.architecture.vocab_size:,} rows, {more:,} of them without a token; they are kept"
        pretrained = dataclasses.replace(pretrained, notes=(*pretrained.notes, note))
    kept = kept or choice.keep(config, pretrained)
    return pretrained if kept is None else cut(pretrained, kept)


def load_params(
    pretrained: Pretrained,
    dtype: Any = np.float32,
    place: Callable[[tuple[str, ...]], jax.sharding.Sharding | Quantized] | None = None,
    stored_vocab: int | None = None,
    names: Collection[str] | None = None,
) -> dict[str, Any]:
    """Returns the nested params of the model in `dtype`, each weight with the sharding `place(path)` (default: the first device).

    A weight whose `place` is a Quantized of shardings is read straight into NF4. Of any other, each process reads only the pieces of its
    own devices. `stored_vocab` pads the vocabulary of embedding and output to that many rows,
    with zeros; `names` are the dotted names of the weights to read (None: all). A UserError where a weight is not finite.
    """
    params: dict[tuple[str, ...], Any] = {}
    for path, weight in weights(pretrained.architecture).items():
        if names is not None and ".".join(path) not in names:
            continue
        rows = weight.shape[0] if stored_vocab is None or path not in VOCABULARY else stored_vocab
        shape = (rows, *weight.shape[1:])
        where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0]) if place is None else place(path)
        if isinstance(where, Quantized):
            layer = lambda number, path=path: read_weight(pretrained, path, (slice(number, number + 1),))[0]  # noqa: E731
            params[path] = quantized.load(layer, weight.shape[0], where)
            continue
        params[path] = jax.make_array_from_callback(shape, where, _pieces(pretrained, path, shape, where, np.dtype(dtype)))
    return unflatten(params)


def read_weight(pretrained: Pretrained, path: tuple[str, ...], index: Index = (), dtype: Any = np.float32) -> np.ndarray:
    """Returns a piece of a weight in `dtype`, maybe a view that lies in memory as the source stores it; a UserError as `load_params`."""
    return _read(pretrained, path, _bounds(index, weights(pretrained.architecture)[path].shape), np.dtype(dtype))


def _pieces(
    pretrained: Pretrained, path: tuple[str, ...], shape: tuple[int, ...], where: jax.sharding.Sharding, dtype: np.dtype
) -> Callable[[Index | None], np.ndarray]:
    """Returns a function that returns a device's piece of a weight, which may have more rows than the model.

    Where the pieces of this process's devices form one block, as on the usual meshes, the block is read at once and cut up, since many
    narrow pieces would mean many small reads. Devices that hold the same piece share it.
    """
    wanted = {_bounds(index, shape) for index in where.addressable_devices_indices_map(shape).values()}
    block = tuple((min(starts), max(stops)) for starts, stops in (zip(*dim, strict=True) for dim in zip(*wanted, strict=True)))
    known: dict[Bounds, np.ndarray] = {}
    if _size(block) == sum(map(_size, wanted)):
        known[block] = _read(pretrained, path, block, dtype)

    def piece(index: Index | None) -> np.ndarray:
        bounds = _bounds(index, shape)
        if block in known:
            return known[block][tuple(slice(start - first, stop - first) for (start, stop), (first, _) in zip(bounds, block, strict=True))]
        if bounds not in known:
            known[bounds] = _read(pretrained, path, bounds, dtype)
        return known[bounds]

    return piece


def _read(pretrained: Pretrained, path: tuple[str, ...], bounds: Bounds, dtype: np.dtype) -> np.ndarray:
    """A block of a weight; rows beyond the vocabulary are zeros. A UserError where a value is not finite."""
    rows = weights(pretrained.architecture)[path].shape[0]
    start, stop = (min(bound, rows) for bound in bounds[0])
    block = pretrained.read(path, (slice(start, stop), *(slice(*part) for part in bounds[1:]))).astype(dtype, copy=False)
    if not finite(block):
        raise UserError(f"{pretrained.source}: the weight {'.'.join(path)} holds NaN or infinities; download or convert the model again")
    more = bounds[0][1] - bounds[0][0] - len(block)
    return np.pad(block, ((0, more), *((0, 0),) * (block.ndim - 1))) if more else block


def _bounds(index: Index | None, shape: tuple[int, ...]) -> Bounds:
    return tuple((part.start, part.stop) for part in whole(index or (), shape))


def _size(bounds: Bounds) -> int:
    return math.prod(stop - start for start, stop in bounds)


def _check_sizes(pretrained: Pretrained, wanted: Architecture | None) -> None:
    """A UserError where the source's weights have other shapes than `wanted`; vocabulary and context may differ."""
    if wanted is None:
        return
    actual = pretrained.architecture
    differing = [
        f"{name} {getattr(actual, name)}, not {getattr(wanted, name)}" for name in SHAPING if getattr(actual, name) != getattr(wanted, name)
    ]
    if differing:
        raise UserError(
            f"{pretrained.source} is not the model of model.architecture: it has {', '.join(differing)}; give the model= of its "
            "size, or model.architecture=null to accept it as it is"
        )


def read_tokenizer(name: str, cache: str | None = None) -> Tokenizer:
    """Returns the tokenizer in a folder or file, or that of a known model; a UserError where there is none."""
    if name in sources.KNOWN and not Path(name).exists():
        return gguf.open_file(sources.resolve(name, cache), None).tokenizer
    return Tokenizer.load(Path(name).expanduser())


def _random(architecture: Architecture | None, tokenizer: Tokenizer | None) -> Pretrained:
    if architecture is None:
        raise UserError("neither model.source nor model.architecture is set: give a model, for example model.source=smollm2-135m-instruct")
    if tokenizer is None:
        raise UserError("model.architecture gives only sizes: give the tokenizer too, model.tokenizer=FOLDER_OR_FILE")

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        raise UserError("model.source is not set, so there are no weights to read: only train can start from random ones")

    return Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=read,
        eos_ids=(tokenizer.eos_id,),
        source="model.architecture",
        files=(),
        format="no weights",
    )


def _open(config: ModelConfig, tokenizer: Tokenizer | None, above: tuple[Path, ...] = ()) -> Pretrained:
    """The model of `config`; `above` are the folders of the adapters that are merged into it."""
    source = config.source
    assert source is not None
    place = source.removesuffix(AVERAGE)
    path = sources.resolve(place, config.cache)
    if path.is_dir() and (trained := native.find(path)) is not None:
        opened = native.open_checkpoint(
            trained, "params" if place == source else "ema", lambda base: open(base.settings(config), base.kept)
        )
    elif storage.is_remote(path):
        raise UserError(
            f"{path} is not a training run, the only kind of model that can be read from an object store: copy it to a disk first"
        )
    elif (path / adapter.FILE).is_file() and path.resolve() not in above:
        opened = _merged(config, path, above)
    elif (path / BIT_DIFFERENCE).is_file():
        raise UserError(
            f"{path} is a weight difference in the bit format of alpaca-jax 0.1, which is no longer read: add it to its base with that "
            "version (`alpaca-jax convert source=... base=... target=...`) and give the result as the source"
        )
    elif (path / "params.json").is_file() and not (path / "config.json").is_file():
        opened = meta.open_folder(path, tokenizer)
    elif path.is_dir():
        opened = huggingface.open_folder(path, tokenizer)
        if config.base is not None:
            opened = difference.add(opened, _open_base(config, config.base))
    elif path.suffix == ".gguf" or _magic(path) == b"GGUF":
        opened = gguf.open_file(path, tokenizer)
    else:
        raise UserError(f"{path} is not a GGUF file; give a .gguf file, the folder of a model (Hugging Face or Meta), or that of a run")
    opened = opened.named(source)
    return opened if tokenizer is None else opened.with_tokenizer(tokenizer)


def _merged(config: ModelConfig, folder: Path, above: tuple[Path, ...]) -> Pretrained:
    """The adapter in `folder`, merged into its base; a UserError where the folder holds a whole model as well, and no base is given."""
    own = huggingface.weight_files(folder) if (folder / "config.json").is_file() else []
    if own and config.base is None:
        raise UserError(
            f"{folder} holds both a whole model ({', '.join(own)}) and an adapter ({adapter.FILE}): move {adapter.FILE} away for the "
            f"model alone, or give base={folder} to merge the adapter into it, or another base"
        )
    base = config.base or adapter.base_of(folder)
    here = sources.resolve(base, config.cache).resolve() if os.path.exists(base) else None
    if here in above or (here == folder.resolve() and not own):
        raise UserError(f"{folder / adapter.FILE} names {base} as its base, which is this adapter itself; give the model as base=")
    merged = adapter.merge(folder, _open_base(config, base, (*above, folder.resolve())))
    return merged if not own else dataclasses.replace(merged, notes=(*merged.notes, *_beside(folder, own, here)))


def _beside(folder: Path, own: list[str], base: Path | None) -> list[str]:
    return [] if base == folder.resolve() else [f"left out: {', '.join(own)} beside the adapter, since another base was given"]


def _open_base(config: ModelConfig, base: str, above: tuple[Path, ...] = ()) -> Pretrained:
    return _open(dataclasses.replace(config, source=base, base=None, architecture=None), None, above)


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)
