"""A LoRA adapter: which weights of a model get a low-rank change, its arrays, and the model with them attached.

The arrays of an adapter are a nested dict in the shape of the model's, `layers.mlp.gate.{down,up}` and, for DoRA, `magnitude`. They are
float32 whatever the base is (in bfloat16 small updates would be lost).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alpaca_jax.model.llama import MATRICES, Params, WeightSpec
from alpaca_jax.model.tree import Path, Tree, flatten, map_with_path, unflatten
from alpaca_jax.model.weight import RANK, LowRank, dense


class Change(NamedTuple):
    """The low-rank change of a stacked weight: rank and scale (alpha / rank) of each layer; rank 0 where a layer has none."""

    ranks: tuple[int, ...]
    scales: tuple[float, ...]

    @property
    def rank(self) -> int:
        """The largest of them, which the arrays are as wide as."""
        return max(self.ranks)


@dataclass(frozen=True)
class Adapter:
    """The changed weights by their path in the model, in the model's order; hashable, so that it may be static in a jitted function."""

    changes: tuple[tuple[Path, Change], ...]
    dora: bool = False
    dropout: float = 0.0  # of what enters A, while training

    def __post_init__(self) -> None:
        for path, change in self.changes:
            assert path in MATRICES and len(change.ranks) == len(change.scales) and change.rank > 0, (path, change)


def specs(adapter: Adapter, model: Tree) -> Tree:
    """The WeightSpec of every array of the adapter, given those of the model; `lora` is the logical axis of the rank."""
    known = flatten(model)
    found: dict[Path, WeightSpec] = {}
    for path, change in adapter.changes:
        spec, split = known[path], 1 + MATRICES[path]
        shapes = {
            "down": WeightSpec((*spec.shape[:split], change.rank), jnp.float32, (*spec.axes[:split], RANK)),
            "up": WeightSpec((spec.shape[0], change.rank, *spec.shape[split:]), jnp.float32, (spec.axes[0], RANK, *spec.axes[split:])),
        }
        if adapter.dora:
            shapes["magnitude"] = WeightSpec((spec.shape[0], *spec.shape[split:]), jnp.float32, (spec.axes[0], *spec.axes[split:]))
        found |= {(*path, name): shape for name, shape in shapes.items()}
    return unflatten(found)


def init(adapter: Adapter, model: Tree, params: Params, key: jax.Array) -> Tree:
    """The arrays of an untrained adapter, which changes nothing, as PEFT starts them: A uniform within 1 / sqrt(inputs), B zero.

    `model` holds the model's specs. DoRA's magnitudes are the norms of the weights in `params`, which nothing else reads. Each layer and
    weight is drawn by itself. Jit it with out_shardings to create the arrays sharded.
    """
    shapes, weights = flatten(specs(adapter, model)), flatten(params)
    changes = dict(adapter.changes)
    places = {path: number for number, path in enumerate(changes)}

    def create(path: Path, spec: WeightSpec) -> jax.Array:
        weight, part = path[:-1], path[-1]
        if part == "up":
            return jnp.zeros(spec.shape, spec.dtype)
        if part == "magnitude":
            return _norms(dense(weights[weight], jnp.float32), MATRICES[weight])
        bound = 1 / math.sqrt(math.prod(spec.shape[1:-1]))
        keys = jax.random.split(jax.random.fold_in(key, places[weight]), spec.shape[0])
        values = jax.vmap(lambda key: jax.random.uniform(key, spec.shape[1:], spec.dtype, -bound, bound))(keys)
        own = jnp.arange(spec.shape[-1]) < jnp.array(changes[weight].ranks)[:, None]
        return jnp.where(own.reshape(spec.shape[0], *(1,) * (len(spec.shape) - 2), -1), values, 0.0)

    return unflatten({path: create(path, spec) for path, spec in shapes.items()})


def _norms(weight: jax.Array, inputs: int) -> jax.Array:
    return jnp.sqrt(jnp.square(weight).sum(range(1, 1 + inputs)))


def attach(params: Params, adapter: Adapter, arrays: Tree, key: jax.Array | None = None) -> Params:
    """The params of the changed model, ready for `llama.forward`; with a key, the adapter's dropout draws its masks from it.

    Every weight and layer has masks of its own. A pass that is computed again (rematerialised) draws the same ones.
    """
    leaves = flatten(params)
    for number, (path, change) in enumerate(adapter.changes):
        own: Tree = arrays
        for name in path:
            own = own[name]
        own_key = None if key is None or not adapter.dropout else jax.random.fold_in(key, number)
        leaves[path] = LowRank(
            base=leaves[path],
            down=own["down"],
            up=own["up"],
            scale=jnp.array(change.scales, jnp.float32),
            magnitude=own.get("magnitude"),
            key=None if own_key is None else jax.random.split(own_key, len(change.scales)),
            dropout=0.0 if own_key is None else adapter.dropout,
        )
    return unflatten(leaves)


def merged(params: Params, dtype: object = jnp.float32) -> Params:
    """The params with every leaf as one array in `dtype`, the changes added in float32."""
    return map_with_path(lambda _, leaf: dense(leaf, dtype), params)
