"""The group `model` of a config."""

import dataclasses
from typing import Any, Literal

from alpaca_jax.config import configclass
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.ranges import AUTO, Positive


@configclass
class ModelConfig:
    """Which weights to start from, or the sizes of random ones, and how they are stored and computed with."""

    source: str | None = None  # a known name, ORG/NAME on the hub, a local folder or file; null: random weights
    base: str | None = None  # the model that an adapter is merged into or a weight difference is added to; null: the one the adapter names
    cache: str | None = None  # folder of downloaded models; null: ~/.cache/alpaca_jax/models
    keep_layers: Positive | None = None  # use only the first N layers
    architecture: Architecture | None = None  # the sizes of random weights; with a source, the sizes it must have
    tokenizer: str | None = None  # a folder, a file or the name of a known model; null: the source's own
    # auto: chosen when a verb starts, before anything is computed with it
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"  # of the stored weights
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    remat: Literal["auto", "none", "full", "attention", "minimal"] = "none"  # what the backward pass recomputes: model/remat.py
    vocab_multiple: Positive = 1  # pads the rows of the vocabulary to a multiple, so that a mesh can divide them

    def settled(self) -> "ModelConfig":
        """These settings with what is `auto` as a verb takes it that doesn't train: in float32."""
        chosen: dict[str, Any] = {"dtype": "float32", "compute_dtype": "float32", "remat": "none"}
        return dataclasses.replace(self, **{name: value for name, value in chosen.items() if getattr(self, name) == AUTO})
