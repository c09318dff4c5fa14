"""The formats that convert writes: the tensors of each, and the function that writes them."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.convert import card
from alpaca_jax.convert.config import Config
from alpaca_jax.errors import UserError
from alpaca_jax.formats import native
from alpaca_jax.formats.adapter import export as adapters
from alpaca_jax.formats.dtypes import Dtype, numpy_dtype
from alpaca_jax.formats.gguf import export as gguf_export
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import weights
from alpaca_jax.formats.tensors import StoredTensor, abbreviated, listed
from alpaca_jax.formats.writing import real

RECEIPT = "conversion.json"
FLOATS = ("float64", "float32", "bfloat16", "float16")
Progress = Callable[[str], None]
NAMES = {
    "huggingface": "a Hugging Face folder",
    "gguf": "a GGUF file",
    "orbax": "a training folder with an Orbax checkpoint",
    "peft": "a PEFT folder with the adapter alone (merge=true: the whole model)",
}


class TensorRow(NamedTuple):
    """A row of the table of tensors."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Output:
    """What will be written; `write(receipt, progress)` writes it, whole or not at all."""

    path: Path
    tensors: list[TensorRow]
    write: Callable[[Mapping[str, Any], Progress], None]


def kind(config: Config, model: Pretrained) -> str:
    """The format of the target: a key of NAMES."""
    return "peft" if config.kind == "huggingface" and model.adapted is not None and not config.merge else config.kind


def plan(config: Config, model: Pretrained) -> Output:
    """Returns the output that `config` describes for `model`; writes nothing yet."""
    path = Path(config.target).expanduser()
    if kind(config, model) == "peft":
        return _peft(config, model)
    dtype = config.dtype or model.dtype
    if config.kind == "gguf":
        listed = [TensorRow(*each) for each in gguf_export.listing(model, dtype)]
        return Output(path, listed, lambda receipt, progress: gguf_export.export(path, model, dtype, plan=receipt, progress=progress))
    assert dtype != "q8_0", "the config has checked this"

    export = native.export if config.kind == "orbax" else huggingface_export.export

    def write(receipt: Mapping[str, Any], progress: Progress) -> None:
        extra = {
            "README.md": card.render(_called(config.target), model, dtype, config.license),
            RECEIPT: huggingface_export.to_json(receipt),
        }
        export(path, model, dtype=dtype, extra=extra, progress=progress, plan=receipt)

    if config.kind == "orbax":
        return Output(path, _stacked(model, dtype), write)
    listed = [TensorRow(each.name, each.shape, dtype, each.nbytes) for each in huggingface_export.listing(model.architecture, dtype)]
    return Output(path, listed, write)


def _peft(config: Config, model: Pretrained) -> Output:
    """The adapter of a run alone, in float32, as it is trained."""
    assert model.adapted is not None
    peft = model.adapted.peft
    if config.dtype not in (None, "float32"):
        raise UserError(f"dtype={config.dtype}: an adapter is written in float32; leave dtype out, or merge=true for the whole model")

    def write(receipt: Mapping[str, Any], progress: Progress) -> None:
        extra = {
            "README.md": card.render(_called(config.target), model, "float32", config.license, alone=True),
            RECEIPT: huggingface_export.to_json(receipt),
        }
        adapters.export(Path(config.target).expanduser(), peft, model.tokenizer, extra, receipt)

    rows = [TensorRow(name, tensor.shape, tensor.dtype, tensor.nbytes) for name, tensor in peft.stored.items()]
    return Output(Path(config.target).expanduser(), rows, write)


def rounded(config: Config, model: Pretrained) -> list[str]:
    """Returns the names of the tensors whose dtype has values that the target's dtype lacks."""
    if config.dtype == "q8_0":
        return list(model.stored) or ["all"]
    narrow = numpy_dtype(config.dtype or model.dtype)
    if not model.stored:
        return [] if _holds(narrow, model.dtype) else ["all"]
    return [name for name, tensor in model.stored.items() if not _kept(config.kind, tensor) and not _holds(narrow, tensor.dtype)]


def rounding(config: Config, model: Pretrained) -> list[str]:
    """Returns in words what `rounded` names, where the user has not chosen the dtype."""
    names = [] if config.dtype else rounded(config, model)
    kinds = " and ".join(sorted({model.stored[name].dtype for name in names}))
    text = f"rounded from {kinds} to {model.dtype}, the dtype of most weights, unless dtype=float32 is given: {listed(abbreviated(names))}"
    return [text] if names else []


def _kept(kind: str, tensor: StoredTensor) -> bool:
    """Whether a tensor is written in float32 whatever the dtype is, as the vectors of a GGUF file are."""
    return kind == "gguf" and len(tensor.shape) == 1 and tensor.dtype != "float64"


def _holds(narrow: np.dtype, stored: str) -> bool:
    """Whether a dtype has all values of a stored one; quantised weights are read as float32."""
    wide = numpy_dtype(stored) if stored in FLOATS else np.dtype(np.float32)
    return np.promote_types(narrow, wide) == narrow


def _called(target: str) -> str:
    """The name of a target: of `.` and `..`, that of the folder."""
    return target if Path(target).name not in ("", "..") else str(real(Path(target)))


def _stacked(model: Pretrained, dtype: Dtype) -> list[TensorRow]:
    size = numpy_dtype(dtype).itemsize
    known = weights(model.architecture).items()
    return [TensorRow(".".join(path), weight.shape, dtype, size * weight.size) for path, weight in known]
