"""Low-rank adapters as a transform of the tree of weights."""

from dataclasses import dataclass

import jax

from alpaca_jax.model.llama import Params
from alpaca_jax.model.tree import Tree


@dataclass(frozen=True)
class Adapter:
    """Which weights have a low-rank change."""

    dropout: float = 0.0


def specs(adapter: Adapter, model: Tree) -> Tree:
    """The WeightSpecs of the adapter's own weights."""
    raise NotImplementedError


def init(adapter: Adapter, model: Tree, base: Params, key: jax.Array) -> Tree:
    """The adapter's first weights."""
    raise NotImplementedError


def attach(base: Params, adapter: Adapter, own: Tree, key: jax.Array | None = None) -> Params:
    """The base with the adapter on it."""
    raise NotImplementedError
