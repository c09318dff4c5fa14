"""Our training step, assembled for a benchmark on one device from random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.optimizer import Optimizer, OptimizerConfig
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.step import Metrics, make_step


@dataclass
class Ours:
    """A training state and the step that moves it; `compute_dtype` and `remat` are the step's."""

    architecture: Architecture
    layout: Layout
    optimizer: Optimizer
    step: Callable[[State, dict[str, Any]], tuple[State, Metrics]]
    state: State
    compute_dtype: Any
    remat: str

    def take(self, batch: dict[str, Any]) -> Metrics:
        """Takes one step on the batch and returns its metrics, without waiting for them."""
        self.state, metrics = self.step(self.state, self.put(batch))
        return metrics

    def put(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        """The batch on the device."""
        return jax.device_put(batch, self.layout.batch)


def assemble(
    architecture: Architecture,
    config: OptimizerConfig,
    steps: int,
    *,
    dtype: Any = jnp.float32,
    compute_dtype: Any = jnp.float32,
    remat: str = "none",
    microbatches: int = 1,
    params: llama.Params | None = None,
) -> Ours:
    """A run of `steps` steps on the first device; `params` (None: random, seed 0) are its first weights."""
    mesh = MeshConfig()
    layout = Layout(make_mesh(mesh, jax.devices()[:1]), mesh)
    optimizer = optimizers.make(config, steps)
    places = states.shardings(llama.specs(architecture, dtype=dtype), optimizer, layout)
    if params is None:
        params = jax.jit(lambda key: llama.init(architecture, key, dtype=dtype), out_shardings=places.params)(jax.random.key(0))
    else:  # the step donates its state, and the caller keeps his weights
        params = jax.tree.map(lambda weight, place: jax.device_put(jnp.array(weight, copy=True), place), params, places.params)
    state = states.start(params, optimizer, places)
    step = make_step(architecture, optimizer, layout, places, compute_dtype=compute_dtype, remat=remat, microbatches=microbatches)
    return Ours(architecture, layout, optimizer, step, state, compute_dtype, remat)
