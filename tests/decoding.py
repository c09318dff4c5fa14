"""A batch on weights in memory, for the tests that decode."""

import jax
import numpy as np

from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.tuning import CPU, Tuning
from alpaca_jax.model.tree import flatten
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
