"""An adapter as PEFT keeps it: its settings and its tensors, in a folder or in memory, beside no base."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats import pickled, safetensors
from alpaca_jax.formats.adapter import config as adapter_config
from alpaca_jax.formats.names import Index
from alpaca_jax.formats.tensors import StoredTensor

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclasses.dataclass(frozen=True)
class Peft:
    """`config` is the content of adapter_config.json, checked; `stored` the tensors by PEFT's names; `load(name, index)` reads a piece."""

    where: Path  # the folder, or the checkpoint that it was taken from
    config: Mapping[str, Any]
    stored: Mapping[str, StoredTensor]
    load: Callable[[str, Index], np.ndarray]
    files: tuple[Path, ...] = ()


class _Held(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def open_folder(folder: Path) -> Peft:
    """Returns the adapter in a folder; reads headers alone. A UserError where it isn't whole, or is of a kind that can't be merged."""
    config = adapter_config.read(folder)
    adapter_config.check(folder, config)
    file, stored, load = _tensors(folder)
    return Peft(folder, config, stored, load, (folder / adapter_config.FILE, file))


def in_memory(where: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Peft:
    """Returns the adapter with these settings and tensors."""
    stored = {name: _Held(tensor.shape, tensor.dtype.name, tensor.nbytes) for name, tensor in tensors.items()}
    return Peft(where, config, stored, lambda name, index: tensors[name][index])


def _tensors(folder: Path) -> tuple[Path, Mapping[str, StoredTensor], Callable[[str, Index], np.ndarray]]:
    """The file of an adapter, its tensors, and a function that reads a piece of one."""
    file = folder / WEIGHTS
    if file.is_file():
        tensors = safetensors.header(file)
        return file, tensors, lambda name, index: safetensors.read(tensors[name], index)
    if (file := folder / "adapter_model.bin").is_file():
        pickles = pickled.header(file)
        return file, pickles, lambda name, index: pickled.read(pickles[name], index)
    raise UserError(f"{folder} holds {adapter_config.FILE} but no weights: {WEIGHTS} is missing; download it again")
