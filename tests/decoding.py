"""A batch on weights in memory, for the tests that decode."""

import jax
import numpy as np

from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.tuning import CPU, Tuning
from alpaca_jax.model import adapter as adapters
from alpaca_jax.model import llama
from alpaca_jax.model.tree import flatten, map_with_path
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh


def layout(**sizes):
    """A layout over as many virtual devices as the sizes of the mesh's axes ask for."""
    config = MeshConfig(**{"data": 1} | sizes)
    return Layout(make_mesh(config, jax.devices()[: int(np.prod([1, *sizes.values()]))]), config)


def program(architecture, tuning: Tuning = CPU, dtype="float32", **sizes):
    return Program(architecture, layout(**sizes), tuning, np.dtype(dtype))


def batch_of(architecture, params, tuning: Tuning = CPU, slots=8, max_length=None):
    """A batch on one device, its weights in the layout that the tuning asks for."""
    read = lambda path, index: np.asarray(flatten(params)[path])[index]  # noqa: E731
    own = weights.fused(architecture, read, np.float32) if tuning.columns else weights.stacked(jax.device_put(params))
    return Batch(program(architecture, tuning), own, slots, max_length)


def adapter_arrays(adapter, architecture, params, seed):
    """Arrays of an adapter that change the answers: magnitudes near the base's norms, zeros beyond the rank of a layer."""
    random, changes, base = np.random.default_rng(seed), dict(adapter.changes), flatten(params)

    def draw(path, spec):
        if path[-1] == "magnitude":
            weight = np.asarray(base[path[:-1]])
            inputs = tuple(range(1, 1 + weight.ndim - len(spec.shape)))
            return np.float32(random.uniform(0.7, 1.3, spec.shape) * np.sqrt(np.square(weight).sum(inputs)))
        values = random.normal(0, 0.1, spec.shape).astype(np.float32)
        for layer, rank in enumerate(changes[path[:-1]].ranks):
            values[layer][(..., slice(rank, None)) if path[-1] == "down" else slice(rank, None)] = 0
        return values

    return map_with_path(draw, adapters.specs(adapter, llama.specs(architecture)))
