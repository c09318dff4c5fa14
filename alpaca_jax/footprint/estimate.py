"""The bytes that a training step needs on each device, counted from sizes alone: nothing is compiled, and no weight is read.

What is stored is exact. What a step computes with is an estimate: the activations that are saved for the backward pass, one layer's
intermediate values, and a chunk of the logits.
"""

import dataclasses
import math

import jax
import numpy as np

from alpaca_jax.model import adapter as adapters
from alpaca_jax.model import frozen, llama
from alpaca_jax.model.adapter import Adapter
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.nf4 import Nf4
from alpaca_jax.model.tree import flatten
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
    adapter: Adapter | None = None  # what is trained instead of them, in float32
    nf4: Nf4 | None = None  # what the matrices under an adapter are stored in; None: `dtype`


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
    trained = own * load.trained if load.adapter is None else _size(load.adapter, a) / load.shards
    values = MOMENTS[load.optimizer] + (1 if load.optimizer == "adafactor" and load.momentum else 0)
    moments = trained * (values * WIDTHS[load.moments] + (4 if load.ema else 0))
    # A layer's weights are gathered and cast just before they are used; where they are trained, its gradient is as wide as they are.
    layer = (a.num_parameters - a.vocab_size * a.hidden_size) / a.num_layers * computed * (2 if load.adapter is None else 1)
    head = a.vocab_size * a.hidden_size * (computed + (4 if load.adapter is None else 0))
    chunk = load.rows * min(CHUNK, load.length) * a.vocab_size * 3 * 4
    tokens = load.rows * load.length
    activations = tokens * (a.num_layers * _saved(load) + _layer(load)) + layer + head + chunk
    weights = own * stored if load.nf4 is None else _quantized(load, load.nf4) / load.shards
    return Footprint(weights + (0 if load.adapter is None else 4 * trained), moments, trained * 4, activations)


def _size(adapter: Adapter, architecture: Architecture) -> int:
    """The values of an adapter's arrays."""
    return sum(math.prod(spec.shape) for spec in flatten(adapters.specs(adapter, llama.specs(architecture))).values())


def _quantized(load: Load, nf4: Nf4) -> int:
    """Bytes of a base whose matrices are in four bits."""
    specs = jax.tree.leaves(frozen.specs(llama.specs(load.architecture, dtype=load.dtype), nf4), is_leaf=lambda leaf: hasattr(leaf, "axes"))
    return sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs)


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
