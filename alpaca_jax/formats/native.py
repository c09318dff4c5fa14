"""Our own training folder: `model/` (architecture and tokenizer) beside `checkpoints/`."""

import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alpaca_jax import checkpoint, storage
from alpaca_jax.config import parse, to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.formats import base as bases
from alpaca_jax.formats.base import Base
from alpaca_jax.formats.dtypes import widest
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, weights
from alpaca_jax.formats.tensors import VOCABULARY, Read
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import read_json, write_atomic, write_json
from alpaca_jax.tokenizer import Tokenizer

FILE = "architecture.json"
Place = tuple[Path, int | None]


class _Stored(NamedTuple):
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
) -> None:
    """Writes what a training run's `train/model/` holds: sizes, tokenizer and chat template, the source, the base of its frozen weights."""
    folder = storage.at(folder)
    for name, content in tokenizer.files().items():
        write_atomic(folder / name, content)
    ids = [int(id) for id in eos_ids] or [tokenizer.eos_id]
    content = {"architecture": to_mapping(architecture), "eos_ids": ids, "source": source}
    write_json(folder / FILE, content | ({} if base is None else {"base": to_mapping(base)}))


def base_of(folder: Path) -> Base | None:
    """The base that a training run's `train/model/` names; None where its checkpoints hold all weights, or nothing is written yet."""
    if not (folder / FILE).is_file():
        return None
    content = read_json(folder / FILE).get("base")
    return None if content is None else parse(Base, content, where=str(folder / FILE))


def find(path: Path) -> Place | None:
    """Returns the training folder that `path` is, or (a run's folder) has as `train/`, or whose checkpoint it is, and the step of that."""
    for folder in (path, path / "train"):
        if (folder / "model" / FILE).is_file():
            return folder, None
    if path.name.isdigit() and path.parent.name == "checkpoints" and (path.parent.parent / "model" / FILE).is_file():
        return path.parent.parent, int(path.name)
    return None


def open(place: Place, item: str, open_base: Callable[[Base], Pretrained]) -> Pretrained:
    """Returns a checkpoint (the newest where the step is None) of a training folder, its params or their average (`ema`).

    Weights that the checkpoint lacks are those of the base that the run names, which `open_base` opens. A UserError where there is no
    checkpoint, its parts don't fit together, or the base is gone or another model.
    """
    folder, step = place
    content = read_json(folder / "model" / FILE)
    if not isinstance(content, dict) or "architecture" not in content:
        raise UserError(f"{folder / 'model' / FILE} was not written by a training run: its key `architecture` is lacking")
    architecture = parse(Architecture, content["architecture"], where=str(folder / "model" / FILE))
    tokenizer = _tokenizer(folder / "model")
    if not checkpoint.steps(folder / "checkpoints"):
        raise UserError(f"{folder / 'checkpoints'} has no checkpoint yet: start the training again and let it save one")
    saved = checkpoint.Saved(folder / "checkpoints", step, item)
    stored = {".".join(path): _Stored(leaf.shape, leaf.dtype.name, leaf.size * leaf.dtype.itemsize) for path, leaf in saved.weights.items()}
    trained = Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=_reader(saved, architecture),
        eos_ids=tuple(content.get("eos_ids") or (tokenizer.eos_id,)),
        source=str(saved.folder),
        files=(saved.folder / checkpoint.MANIFEST,),  # it has the sha256 of every other file of the checkpoint
        format=f"Orbax checkpoint of step {saved.step}{' (averaged weights)' if item == 'ema' else ''}",
        dtype=widest([tensor.dtype for tensor in stored.values()]),
        stored=stored,
        origin=content.get("source"),
    )
    base = base_of(folder / "model")
    if base is None or all(name in stored for name in base.weights):
        return trained
    return _over(trained, bases.opened(base, folder, lambda: open_base(base)), base)


def _over(trained: Pretrained, source: Pretrained, base: Base) -> Pretrained:
    """The model whose trained weights are in a checkpoint and whose frozen ones are those of `source`."""
    frozen = {tuple(name.split(".")) for name in base.weights}
    known, size = weights(trained.architecture), np.dtype(source.dtype).itemsize
    stored = {".".join(path): _Stored(known[path].shape, source.dtype, math.prod(known[path].shape) * size) for path in sorted(frozen)}

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        return source.read(path, index) if path in frozen else trained.read(path, index)

    return dataclasses.replace(trained, read=read, files=(*trained.files, *source.files), stored={**trained.stored, **stored})


def _tokenizer(folder: Path) -> Tokenizer:
    if not storage.is_remote(folder):
        return Tokenizer.load(folder)
    with tempfile.TemporaryDirectory(prefix="alpaca-jax-tokenizer-") as local:
        storage.fetch(folder, Path(local))
        return Tokenizer.load(local)


def _reader(saved: checkpoint.Saved, architecture: Architecture) -> Read:
    known = weights(architecture)

    @functools.lru_cache(maxsize=1)  # layers of one weight are asked for one after the other
    def whole(path: tuple[str, ...]) -> np.ndarray:
        return saved.read(path)

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        shape = known[path].shape
        found = saved.weights[path].shape if path in saved.weights else None
        if found is not None and path in VOCABULARY:
            found = (min(found[0], shape[0]), *found[1:])  # stored with more rows, where a mesh has to divide them
        if found != shape:
            state = "is missing" if found is None else f"has the shape {found}"
            raise UserError(f"{saved.folder}: {'.'.join(path)} {state}, the architecture asks for {shape}; give another model.source")
        return whole(path)[: shape[0]][index]

    return read
