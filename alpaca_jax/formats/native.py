"""Our own training folder: `model/` (architecture and tokenizer) beside `checkpoints/`; read, and written with a checkpoint of step 0.

Orbax copies a whole tree of arrays before it writes. So the leaves of an export are lazy: each weight is read when it is written, and two
stacked weights are in memory at a time instead of the model twice.
"""

import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax import checkpoint, storage
from alpaca_jax.config import parse, to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.formats import base as bases
from alpaca_jax.formats.adapter import trained as adapters
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.trained import ADAPTER
from alpaca_jax.formats.base import Base
from alpaca_jax.formats.dtypes import Dtype, finite, numpy_dtype, widest
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, Weight, weights
from alpaca_jax.formats.tensors import VOCABULARY, Read
from alpaca_jax.formats.writing import Partial, explained, read_ahead
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Tree, unflatten
from alpaca_jax.rundir import read_json, write_atomic, write_json
from alpaca_jax.tokenizer import Tokenizer

FILE = "architecture.json"
SCORE = ("score", "weight")  # what a reward model has beside the model
REWARDS = "left out: the vector that gives an answer's reward, which only generate method=pairs pairs.by=reward reads"
Place = tuple[Path, int | None]


class _SavedWeight(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def write(
    folder: str | os.PathLike[str],
    architecture: Architecture,
    tokenizer: Tokenizer,
    eos_ids: Sequence[int] = (),
    source: str | None = None,
    base: Base | None = None,
    adapter: AdapterConfig | None = None,
) -> None:
    """Writes a run's `train/model/`: architecture, tokenizer and chat template, its source, the base of its frozen weights, its adapter."""
    folder = storage.at(folder)
    for name, content in tokenizer.files().items():
        write_atomic(folder / name, content)
    ids = [int(id) for id in eos_ids] or [tokenizer.eos_id]
    model = {"architecture": to_mapping(architecture), "eos_ids": ids, "source": source}
    parts = {name: to_mapping(part) for name, part in (("base", base), (ADAPTER, adapter)) if part is not None}
    write_json(folder / FILE, model | parts)


def base_of(folder: Path) -> Base | None:
    """The base that a training run's `train/model/` names; None where its checkpoints hold all weights, or nothing is written yet."""
    if not (folder / FILE).is_file():
        return None
    content = _content(folder).get("base")
    return None if content is None else parse(Base, content, where=str(folder / FILE))


def find(path: Path) -> Place | None:
    """Returns (training folder, step) for a training folder, a run's folder or a checkpoint (the only one with a step); else None."""
    for folder in (path, path / "train"):
        if (folder / "model" / FILE).is_file():
            return folder, None
    if path.name.isdigit() and path.parent.name == "checkpoints" and (path.parent.parent / "model" / FILE).is_file():
        return path.parent.parent, int(path.name)
    return None


def open_checkpoint(place: Place, item: str, open_base: Callable[[Base], Pretrained]) -> Pretrained:
    """Returns a checkpoint of a training folder (step None: the newest), its params or their average (`ema`).

    Weights that the checkpoint lacks are those of the base that the run names, which `open_base` opens. A UserError where there is no
    checkpoint, its parts don't fit together, or the base is gone or another model.
    """
    folder, step = place
    content = _content(folder / "model")
    architecture = parse(Architecture, content["architecture"], where=str(folder / "model" / FILE))
    if wrong := [id for id in content.get("eos_ids") or () if id >= architecture.vocab_size]:
        raise UserError(f"{folder / 'model' / FILE}: eos_ids has {wrong[0]}, beyond the vocab_size of {architecture.vocab_size:,}")
    tokenizer = _tokenizer(folder / "model")
    if not checkpoint.steps(folder / "checkpoints"):
        raise UserError(f"{folder / 'checkpoints'} has no checkpoint yet: start the training again and let it save one")
    saved = checkpoint.Saved(folder / "checkpoints", step, item)
    stored = {
        ".".join(path): _SavedWeight(leaf.shape, leaf.dtype.name, leaf.size * leaf.dtype.itemsize) for path, leaf in saved.weights.items()
    }
    trained = Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=_reader(saved, architecture),
        eos_ids=tuple(content.get("eos_ids") or (tokenizer.eos_id,)),
        source=str(saved.folder),
        files=(saved.folder / checkpoint.MANIFEST,),  # holds the sha256 of every other file of the checkpoint
        format=f"Orbax checkpoint of step {saved.step}{' (averaged weights)' if item == 'ema' else ''}",
        dtype=widest([tensor.dtype for tensor in stored.values()]),
        stored=stored,
        origin=content.get("source"),
        notes=(REWARDS,) if SCORE in saved.weights else (),
    )
    base = base_of(folder / "model")
    if base is not None and not all(name in stored for name in base.weights):
        trained = _over(trained, bases.opened(base, folder, lambda: open_base(base)), base)
    if content.get(ADAPTER) is None:
        return trained
    settings = parse(AdapterConfig, content[ADAPTER], where=str(folder / "model" / FILE))
    return adapters.over(trained, saved, settings, None if base is None else base.source)


def score(path: Path) -> np.ndarray:
    """The vector [D] that a reward model multiplies hidden states with, of the newest checkpoint or of that which `path` names.

    A UserError where the run in `path` has trained none.
    """
    place = find(path)
    if place is not None and checkpoint.steps(place[0] / "checkpoints"):
        saved = checkpoint.Saved(place[0] / "checkpoints", place[1])
        if SCORE in saved.weights:
            return saved.read(SCORE)[0]
    raise UserError(f"{path} is no run of objective=reward with a checkpoint; train one on pairs, or give another folder")


def _over(trained: Pretrained, source: Pretrained, base: Base) -> Pretrained:
    """The model whose trained weights are in a checkpoint and whose frozen ones are those of `source`."""
    frozen = {tuple(name.split(".")) for name in base.weights}
    known, size = weights(trained.architecture), np.dtype(source.dtype).itemsize
    stored = {".".join(path): _SavedWeight(known[path].shape, source.dtype, math.prod(known[path].shape) * size) for path in sorted(frozen)}

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        return source.read(path, index) if path in frozen else trained.read(path, index)

    return dataclasses.replace(trained, read=read, files=(*trained.files, *source.files), stored={**trained.stored, **stored})


def export(
    folder: Path,
    model: Pretrained,
    dtype: Dtype | None = None,
    extra: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda name: None,
    plan: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes the training folder `folder` (absent or empty before), whole or not at all; calls `progress(path)` after each weight.

    A UserError where a weight is not finite in `dtype` (default: as stored), or the disk has no room.
    """
    leaves = {path: _LazyWeight(model, weight, dtype or model.dtype) for path, weight in weights(model.architecture).items()}
    size = sum(leaf.nbytes for leaf in leaves.values())
    partial = Partial(folder, dict(plan), size)
    arrays = partial.folder / "checkpoints" / "0"
    try:
        with explained(folder):
            checkpoint.remove([arrays])  # left by an export that was killed
            write(partial.folder / "model", model.architecture, model.tokenizer, model.eos_ids, model.origin or model.source)
            _save(arrays, unflatten(leaves), progress)
            checkpoint.seal(arrays, 0, {})
            for name, text in extra.items():
                (partial.folder / name).write_text(text, encoding="utf-8")
        partial.finish()
    except UserError:
        partial.discard()
        raise


def _content(folder: Path) -> dict[str, Any]:
    """The content of FILE; a UserError where a value is none that a run writes."""
    file = folder / FILE
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("architecture"), dict):
        raise UserError(f"{file} was not written by a training run: it has no key `architecture` with an object")
    ids = content.get("eos_ids") or []
    if not isinstance(ids, list) or not all(isinstance(id, int) and not isinstance(id, bool) and id >= 0 for id in ids):
        raise UserError(f"{file}: eos_ids is {str(ids)[:80]}, and should be a list of ids; take the file from a backup")
    for key, kind, word in (("source", str, "a text"), ("base", dict, "an object"), (ADAPTER, dict, "an object")):
        if not isinstance(content.get(key), kind | None):
            raise UserError(f"{file}: {key} is {str(content[key])[:80]}, and should be {word}; take the file from a backup")
    return content


def _tokenizer(folder: Path) -> Tokenizer:
    if not storage.is_remote(folder):
        return Tokenizer.load(folder)
    with tempfile.TemporaryDirectory(prefix="alpaca-jax-tokenizer-") as local:
        storage.fetch(folder, Path(local))
        return Tokenizer.load(local)


def _reader(saved: checkpoint.Saved, architecture: Architecture) -> Read:
    known = weights(architecture)

    @functools.lru_cache(maxsize=1)  # callers read the layers of one weight in turn
    def whole(path: tuple[str, ...]) -> np.ndarray:
        return saved.read(path)

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        shape = known[path].shape
        stored = saved.weights[path].shape if path in saved.weights else None
        if stored is not None and path in VOCABULARY:
            stored = (min(stored[0], shape[0]), *stored[1:])  # stored padded, so that a mesh divides the rows
        if stored != shape:
            problem = "is missing" if stored is None else f"has the shape {stored}"
            raise UserError(f"{saved.folder}: {'.'.join(path)} {problem}, the architecture needs {shape}; give another model.source")
        return whole(path)[: shape[0]][index]

    return read


class _LazyWeight:
    """A weight that is read when it is written."""

    def __init__(self, model: Pretrained, weight: Weight, dtype: Dtype) -> None:
        self.path, self.shape, self.dtype = weight.name.path, weight.shape, numpy_dtype(dtype)
        self._model = model

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        with np.errstate(over="ignore"):  # the error below names the weight
            weight = np.ascontiguousarray(self._model.read(self.path), dtype=self.dtype)
        if not finite(weight):
            raise UserError(f"{self._model.source}: the weight {'.'.join(self.path)} has NaN or infinities in {self.dtype.name}")
        return weight


def _save(folder: Path, tree: Tree, progress: Callable[[str], None]) -> None:
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    class Handler(type_handlers.NumpyHandler):
        """Writes lazy weights one after another, as Orbax writes numpy arrays."""

        async def serialize(self, values: Sequence[_LazyWeight], infos: Sequence[Any], args: Sequence[Any] | None = None) -> list[Any]:
            read = read_ahead(lazy.read() for lazy in values)
            for lazy, weight, info, arg in zip(values, read, infos, args or [ocp.SaveArgs()] * len(values), strict=True):
                for written in await super().serialize([weight], [info], [arg]):
                    written.result()
                progress(".".join(lazy.path))
            return []

    registry = type_handlers.create_type_handler_registry((_LazyWeight, Handler(deepcopy_host_arrays=False)))
    # Compression would hold two more copies of a weight in memory.
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(params=handler)) as writer:
        writer.save(folder.absolute(), args=ocp.args.Composite(params=ocp.args.PyTreeSave(tree)))
