"""What the group `model` of a config holds."""

from typing import Literal

from alpaca_jax.config import configclass
from alpaca_jax.model.architecture import Architecture


@configclass
class ModelConfig:
    """Which weights, or which sizes to start from at random, and how they are stored and computed with."""

    source: str | None = None  # a known name, a hub's ORG/NAME, a local folder or file; null: random weights
    base: str | None = None  # the model that a LoRA adapter or a weight difference is laid over; null: the one its own file names
    cache: str | None = None  # where fetched models lie; null: ~/.cache/alpaca_jax/models
    keep_layers: int | None = None  # use the first so many layers only
    architecture: Architecture | None = None  # the sizes of random weights; beside a source, what it has to be
    tokenizer: str | None = None  # a folder or file; null: the one that comes with source
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the stored weights
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "attention", "minimal"] = "none"  # what the backward pass recomputes: model/remat.py
    vocab_multiple: int = 1  # rows of the vocabulary are padded to a multiple, for meshes that have to divide them

    def __post_init__(self) -> None:
        if self.keep_layers is not None and self.keep_layers < 1:
            raise ValueError(f"model.keep_layers={self.keep_layers}: give 1 or more layers, or null for all")
        if self.vocab_multiple < 1:
            raise ValueError(f"model.vocab_multiple={self.vocab_multiple}: give 1 or more")
