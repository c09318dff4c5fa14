"""What `alpaca-jax convert` is told."""

from typing import Literal

from alpaca_jax.config import configclass


@configclass
class Config:
    """One conversion."""

    dir: str
    source: str  # a training run, a known name, org/name, a local folder or file
    target: str  # a folder that doesn't exist yet
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    cache: str | None = None  # where fetched models lie; null: ~/.cache/alpaca_jax/models
    license: str | None = None  # of the weights, for the model card: an identifier of the hub such as apache-2.0
