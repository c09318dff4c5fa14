"""The adapter in a checkpoint of a training run, over the base that the run stands on."""

import dataclasses
from pathlib import Path

from alpaca_jax import checkpoint
from alpaca_jax.formats.adapter import four_bits, layout, reader
from alpaca_jax.formats.adapter import peft as pefts
from alpaca_jax.formats.adapter.peft import Peft
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import plan, saved_settings
from alpaca_jax.formats.model import Adapted, Pretrained
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Tree, unflatten

ADAPTER = "adapter"  # the part of a checkpoint's params


def over(base: Pretrained, saved: checkpoint.Saved, settings: AdapterConfig, name: str | None) -> Pretrained:
    """Returns `base`, which PEFT is to find as `name`, with the adapter of a checkpoint, which is merged as weights are read.

    Where the adapter was trained on four bits, it is merged into what these hold.
    """
    arrays = unflatten({path[1:]: saved.read(path) for path in saved.weights if path[0] == ADAPTER})
    peft = as_peft(saved.folder, arrays, settings, base.architecture, name)
    stood_on = base if settings.base is None else four_bits.through(base, settings.double_quant)
    merged = reader.over(stood_on, peft)
    return dataclasses.replace(
        merged, format=f"{stood_on.format}, with a LoRA adapter", adapted=Adapted(base, peft, quantised=settings.base is not None)
    )


def as_peft(where: Path, arrays: Tree, settings: AdapterConfig, architecture: Architecture, name: str | None) -> Peft:
    """The arrays of a run's adapter as PEFT has them, for the base called `name`."""
    tensors = layout.tensors(plan(settings, architecture), arrays, architecture)
    return pefts.in_memory(where, saved_settings(settings, architecture, name), tensors)
