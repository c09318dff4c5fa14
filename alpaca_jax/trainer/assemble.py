"""A training step with all it needs to be compiled: shapes, places and the step, without data, weights or devices of its own.

`train` runs it. A planner compiles it for devices that are not there: nothing here touches a device except through the mesh of the Layout.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Tree
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.guard import GuardConfig
from alpaca_jax.trainer.objectives import Objective
from alpaca_jax.trainer.optimizer import Optimizer, OptimizerConfig
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.step import Compiled, Step, make_step
from alpaca_jax.trainer.weights import BASE, Fixed, split


@dataclass(frozen=True)
class Assembly:
    """One run's step and the shapes and places of its arguments."""

    architecture: Architecture
    specs: llama.Params  # the WeightSpec of every weight of the model
    places: llama.Params  # where every weight is stored
    objective: Objective
    optimizer: Optimizer
    layout: Layout
    state_places: State
    abstract_state: State  # ShapeDtypeStructs with shardings
    abstract_fixed: Fixed
    step: Step
    frozen: tuple[str, ...]
    guard: GuardConfig | None

    def start(self, params: llama.Params) -> tuple[State, Fixed]:
        """The State of step 0 and what stays fixed, from all weights of the model in their `places`."""
        trained, base = split(params, self.frozen)
        return states.start(trained, self.optimizer, self.state_places, self.guard), {BASE: base}

    def random_params(self, key: jax.Array) -> llama.Params:
        """Random weights, created in their places."""
        embed = self.specs["embed"]["weight"]
        init = jax.jit(lambda key: llama.init(self.architecture, key, embed.shape[0], embed.dtype), out_shardings=self.places)
        return init(key)

    def abstract_batch(self, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The batch [rows, length] that the step reads, as ShapeDtypeStructs with shardings."""
        place = self.layout.batch
        return {key: jax.ShapeDtypeStruct((rows, length), jnp.dtype(dtype), sharding=place) for key, dtype in self.objective.reads.items()}

    def lower(self, rows: int, length: int) -> Any:
        """The step's program for batches [rows, length], not yet compiled; needs no weights and no data."""
        return self.step.lower(self.abstract_state, self.abstract_fixed, self.abstract_batch(rows, length))

    def compile(self, rows: int, length: int) -> Compiled:
        """The step compiled for batches [rows, length]."""
        return Compiled(self.lower(rows, length).compile(), self.step)


def assemble(
    architecture: Architecture,
    config: OptimizerConfig,
    layout: Layout,
    objective: Objective,
    *,
    steps: int,
    stored_vocab: int | None = None,
    dtype: Any = jnp.float32,
    microbatches: int = 1,
    guard: GuardConfig | None = None,
) -> Assembly:
    """The Assembly of a run of `steps` steps; UserError where the layout doesn't fit a weight or `config.frozen` matches none.

    `stored_vocab` rows of the vocabulary are stored, where a mesh needs more than the architecture has; weights are stored in `dtype`.
    """
    optimizer = optimizers.make(config, steps)
    specs = llama.specs(architecture, stored_vocab, jnp.dtype(dtype))
    trained, base = split(specs, config.frozen)
    places = states.shardings(trained, optimizer, layout, guard)
    fixed_places: dict[str, Tree] = {BASE: layout.tree(base, "weights")}
    return Assembly(
        architecture=architecture,
        specs=specs,
        places=layout.tree(specs, "weights"),
        objective=objective,
        optimizer=optimizer,
        layout=layout,
        state_places=places,
        abstract_state=states.abstract(trained, optimizer, places, guard),
        abstract_fixed=states.placed({BASE: states.shapes_of(base)}, fixed_places),
        step=make_step(objective, optimizer, layout, places, fixed_places, microbatches=microbatches, guard=guard),
        frozen=config.frozen,
        guard=guard,
    )
