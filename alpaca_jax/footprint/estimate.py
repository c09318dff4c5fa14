"""The bytes that a training step needs on each device, counted from sizes alone: nothing is compiled, and no weight is read.

What is stored is exact. What a step computes with is an estimate: the activations that are saved for the backward pass, one layer's
intermediate values, and a chunk of the logits.
"""

import dataclasses
import math

from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer.loss import CHUNK

WIDTHS = {"float32": 4, "bfloat16": 2}
MOMENTS = {"adamw": 2, "lion": 1, "muon": 1.3, "adafactor": 0}  # values a trained weight; muon: Adam's for embedding and head


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What decides the bytes of one device: `shards` that hold the weights and moments together, `rows` that it computes at a time."""

    architecture: Architecture
    dtype: str  # of the stored weights
    compute_dtype: str
    remat: str
    rows: int
    length: int
    shards: int = 1
    optimizer: str = "adamw"
    moments: str = "float32"
    momentum: bool = False  # of adafactor
    ema: bool = False
    trained: float = 1.0  # the share of the weights that is not frozen


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes on each device."""

    weights: float
    optimizer: float  # moments and average
    gradients: float
    activations: float

    @property
    def kept(self) -> float:
        """The least that any step needs: weights, optimizer and one gradient."""
        return self.weights + self.optimizer + self.gradients

    @property
    def total(self) -> float:
        """All of it."""
        return self.kept + self.activations

    def __str__(self) -> str:
        parts = (f"{field.name} {size(getattr(self, field.name))}" for field in dataclasses.fields(self))
        return f"about {size(self.total)} a device ({', '.join(parts)})"


def size(count: float) -> str:
    """Bytes as a person reads them: GB, or MB where there are few."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def estimate(load: Load) -> Footprint:
    """The Footprint of a training step."""
    a = load.architecture
    stored, computed = WIDTHS[load.dtype], WIDTHS[load.compute_dtype]
    own = a.num_parameters / load.shards
    trained = own * load.trained
    values = MOMENTS[load.optimizer] + (1 if load.optimizer == "adafactor" and load.momentum else 0)
    moments = trained * (values * WIDTHS[load.moments] + (4 if load.ema else 0))
    # A layer's weights are gathered and cast just before they are used, and its gradient is as wide as they are.
    layer = (a.num_parameters - a.vocab_size * a.hidden_size) / a.num_layers * computed * 2
    head = a.vocab_size * a.hidden_size * (computed + 4)
    chunk = load.rows * min(CHUNK, load.length) * a.vocab_size * 3 * 4
    tokens = load.rows * load.length
    activations = tokens * (a.num_layers * _saved(load) + _layer(load)) + layer + head + chunk
    return Footprint(own * stored, moments, trained * 4, activations)


def _saved(load: Load) -> float:
    """Bytes a token that a layer keeps for its backward pass (model/remat.py)."""
    a, width = load.architecture, WIDTHS[load.compute_dtype]
    heads, groups = a.num_heads * a.head_dim, 2 * a.num_kv_heads * a.head_dim
    names = {"full": 0, "attention": 2 * heads + groups, "minimal": 2 * heads + groups + 2 * a.intermediate_size}
    return _layer(load) if load.remat == "none" else width * (a.hidden_size + names[load.remat])


def _layer(load: Load) -> float:
    """Bytes a token of all that a layer computes, with the attention scores of a row."""
    a, width = load.architecture, WIDTHS[load.compute_dtype]
    heads, groups = a.num_heads * a.head_dim, 2 * a.num_kv_heads * a.head_dim
    return width * (6 * a.hidden_size + 3 * heads + 2 * groups + 4 * a.intermediate_size) + 4 * a.num_heads * load.length


def rows_a_device(examples: int | None, tokens: int | None, rows: int | None, length: int, packed: bool, parts: int) -> int:
    """The rows that one device takes at a time, before the records are read: packed examples are taken for half a row long."""
    if rows is None:
        rows = tokens // length if tokens else math.ceil((examples or 1) / (2 if packed else 1))
    return max(1, math.ceil(rows / parts))
