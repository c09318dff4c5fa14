"""The formats that convert writes: what each will hold, and what writes it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alpaca_jax.convert import card
from alpaca_jax.convert.config import Config
from alpaca_jax.formats import difference, orbax_export, pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.dtypes import Dtype, numpy_dtype
from alpaca_jax.formats.gguf import export as gguf_export
from alpaca_jax.formats.huggingface import export as huggingface_export
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

    def folder(export: Callable[..., None], *models: Pretrained) -> Callable[[Mapping[str, Any], Progress], None]:
        def write(receipt: Mapping[str, Any], progress: Progress) -> None:
            base = config.base if config.kind == "difference" else None
            card_text = card.render(config.target, model, dtype, config.license, base)
            extra = {"README.md": card_text, RECEIPT: huggingface_export.to_json(receipt)}
            export(path, *models, dtype=dtype, extra=extra, progress=progress, plan=receipt)

        return write

    if config.kind == "orbax":
        return Output(path, _stacked(model, dtype), folder(orbax_export.export, model))
    listed = [Tensor(each.name, each.shape, dtype, each.nbytes) for each in huggingface_export.listing(model.architecture, dtype)]
    if config.kind == "huggingface":
        return Output(path, listed, folder(huggingface_export.export, model))
    base = pretrained.open(ModelConfig(source=config.base, cache=config.cache))
    stored = [each._replace(dtype=difference.BITS[dtype]) for each in listed]
    return Output(path, stored, folder(difference.export, model, base))


def _stacked(model: Pretrained, dtype: Dtype) -> list[Tensor]:
    size = numpy_dtype(dtype).itemsize
    known = weights(model.architecture).items()
    return [Tensor(".".join(path), weight.shape, dtype, size * weight.size) for path, weight in known]
