"""Random arrays of an adapter, as if it were trained."""

import numpy as np

from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import plan
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.adapter import specs
from alpaca_jax.model.tree import Tree, flatten, unflatten


def random_arrays(config: AdapterConfig, base: Pretrained) -> Tree:
    """Arrays of an adapter that is not new, zero beyond the rank of each layer."""
    adapter, random = plan(config, base.architecture), np.random.default_rng(0)
    shapes = flatten(specs(adapter, llama.specs(base.architecture)))
    ranks = {path: change.ranks for path, change in adapter.changes}
    found = {}
    for path, spec in shapes.items():
        found[path] = random.uniform(0.5, 1.5, spec.shape).astype(np.float32)
        for layer, rank in enumerate(ranks[path[:-1]]):
            if path[-1] == "magnitude":
                continue
            beyond = (..., slice(rank, None)) if path[-1] == "down" else (slice(rank, None),)
            found[path][layer][beyond] = 0
    return unflatten(found)
