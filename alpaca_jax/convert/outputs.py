"""The formats that convert writes: what each will hold, and what writes it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alpaca_jax.convert import card
from alpaca_jax.convert.config import Config
from alpaca_jax.formats import difference, gguf_export, huggingface_export, orbax_export, pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.dtypes import Dtype, numpy_dtype
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import weights

RECEIPT = "conversion.json"
Progress = Callable[[str], None]
NAMES = {
    "huggingface": "a Hugging Face folder",
    "gguf": "a GGUF file",
    "orbax": "a training folder with an Orbax checkpoint",
    "difference": "a difference to its base, as a Hugging Face folder",
}


class Tensor(NamedTuple):
    """A tensor as a table shows it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Output:
    """What will be written: `write(receipt, progress)` does it, whole or not at all."""

    path: Path
    tensors: list[Tensor]
    write: Callable[[Mapping[str, Any], Progress], None]


def plan(config: Config, model: Pretrained) -> Output:
    """Returns what `config` makes of `model`; nothing is written yet."""
    path = Path(config.target).expanduser()
    dtype = config.dtype or model.dtype
    if config.kind == "gguf":
        listed = [Tensor(*each) for each in gguf_export.listing(model, dtype)]
        return Output(path, listed, lambda receipt, progress: gguf_export.export(path, model, dtype, plan=receipt, progress=progress))
    assert dtype != "q8_0", "the config has checked it"
    if config.kind == "orbax":
        return Output(path, _stacked(model, dtype), lambda *given: orbax_export.export(path, model, dtype, *_extra(config, model, *given)))
    listed = [Tensor(each.name, each.shape, dtype, each.nbytes) for each in huggingface_export.listing(model.architecture, dtype)]
    if config.kind == "difference":
        base = pretrained.open(ModelConfig(source=config.base, cache=config.cache))
        return Output(path, listed, lambda *given: difference.export(path, model, base, *_extra(config, model, *given)))
    return Output(path, listed, lambda *given: huggingface_export.export(path, model, dtype, *_extra(config, model, *given)))


def _extra(config: Config, model: Pretrained, receipt: Mapping[str, Any], progress: Progress) -> tuple[dict[str, str], Progress]:
    """The files that stand beside the weights, and the progress."""
    text = card.render(config.target, model, config.dtype or model.dtype, config.license)
    return {"README.md": text, RECEIPT: huggingface_export.to_json(receipt)}, progress


def _stacked(model: Pretrained, dtype: Dtype) -> list[Tensor]:
    size = numpy_dtype(dtype).itemsize
    known = weights(model.architecture).items()
    return [Tensor(".".join(path), weight.shape, dtype, size * weight.size) for path, weight in known]
