"""Our training step, assembled for a benchmark on one device from random weights."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from alpaca_jax.formats.adapter import targets
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer.assemble import Assembly
from alpaca_jax.trainer.assemble import assemble as assembled
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import sft
from alpaca_jax.trainer.optimizer import OptimizerConfig
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.step import Metrics
from alpaca_jax.trainer.weights import Fixed


@dataclass
class Ours:
    """A training state and the step that updates it."""

    assembly: Assembly
    forward: Forward
    step: Any  # the jitted or compiled step
    state: State
    fixed: Fixed

    def take(self, batch: dict[str, Any]) -> Metrics:
        """Takes one step on the batch and returns its metrics, without waiting for them."""
        self.state, metrics = self.step(self.state, self.fixed, self.put(batch))
        return metrics

    def put(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        """The batch on the device."""
        return jax.device_put(batch, self.assembly.layout.batch)


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
    adapter: AdapterConfig | None = None,
) -> Ours:
    """A run of `steps` steps on the first device; `params` (None: random, seed 0) are its initial weights, or those under an adapter."""
    mesh = MeshConfig()
    layout = Layout(make_mesh(mesh, jax.devices()[:1]), mesh)
    changed = None if adapter is None else targets.plan(adapter, architecture)
    forward = Forward(architecture, compute_dtype, remat, layout.constrain, changed)
    assembly = assembled(forward, config, layout, sft.objective, steps=steps, dtype=dtype, microbatches=microbatches)
    if params is None:
        params = assembly.random_params(jax.random.key(0))
    else:  # the step donates its state, and the caller keeps the weights
        params = jax.tree.map(lambda weight, place: jax.device_put(jnp.array(weight, copy=True), place), params, assembly.places)
    return Ours(assembly, forward, assembly.step, *assembly.start(params))
