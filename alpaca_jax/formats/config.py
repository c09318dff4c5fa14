"""The group `model` of a config."""

from typing import Literal

from alpaca_jax.config import configclass
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.ranges import Positive


@configclass
class ModelConfig:
    """Which weights to start from, or the sizes of random ones, and how they are stored and computed with."""

    source: str | None = None  # a known name, ORG/NAME on the hub, a local folder or file; null: random weights
    base: str | None = None  # the model that an adapter is merged into or a weight difference is added to; null: the one the adapter names
    cache: str | None = None  # folder of downloaded models; null: ~/.cache/alpaca_jax/models
    keep_layers: Positive | None = None  # use only the first N layers
    architecture: Architecture | None = None  # the sizes of random weights; with a source, the sizes it must have
    tokenizer: str | None = None  # a folder or file; null: the source's own
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the stored weights
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "attention", "minimal"] = "none"  # what the backward pass recomputes: model/remat.py
    vocab_multiple: Positive = 1  # pads the rows of the vocabulary to a multiple, so that a mesh can divide them
