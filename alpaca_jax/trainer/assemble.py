"""A training step with all it needs to be compiled: shapes, places and the step, without data, weights or devices of its own.

`train` runs it. A planner compiles it for devices that are not there: nothing here touches a device except through the mesh of the Layout.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from alpaca_jax.model import adapter as adapters
from alpaca_jax.model import frozen, llama
from alpaca_jax.model.nf4 import Nf4
from alpaca_jax.model.tree import Tree
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.guard import GuardConfig
from alpaca_jax.trainer.objectives import Factory, Objective
from alpaca_jax.trainer.optimizer import Optimizer, OptimizerConfig
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.step import Compiled, Step, make_step
from alpaca_jax.trainer.weights import ADAPTER, BASE, Fixed, split


@dataclass(frozen=True)
class Assembly:
    """One run's step and the shapes and places of its arguments."""

    forward: Forward
    specs: llama.Params  # the WeightSpec of every weight of the model, without an adapter and in full precision
    places: llama.Params  # where every weight is stored; a Quantized of places where it is stored in NF4
    objective: Objective
    optimizer: Optimizer
    layout: Layout
    state_places: State
    abstract_state: State  # ShapeDtypeStructs with shardings
    abstract_fixed: Fixed
    step: Step
    frozen: tuple[str, ...]
    guard: GuardConfig | None
    nf4: Nf4 | None
    heads: Mapping[str, Tree]  # the WeightSpecs of what is trained beside the model, from zero

    def start(self, params: llama.Params, seed: int = 0) -> tuple[State, Fixed]:
        """The State of step 0 and the fixed BASE, from all weights of the model in their `places`; `seed` draws an adapter's."""
        if self.forward.adapter is None:
            trained, base = split(params, self.frozen)
        else:
            own, where = self.forward.adapter, self.state_places.trained[ADAPTER]
            init = jax.jit(lambda base, key: adapters.init(own, self.specs, base, key), out_shardings=where)
            trained, base = {ADAPTER: init(params, jax.random.key(seed))}, params
        if self.heads:
            shapes, where = states.shapes_of(dict(self.heads)), {name: self.state_places.trained[name] for name in self.heads}
            trained |= jax.jit(lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), out_shardings=where)()
        return states.start(trained, self.optimizer, self.state_places, self.guard), {BASE: base}

    def divided(self, params: Tree) -> tuple[Tree, Tree]:
        """(trained, fixed) of the params of a checkpoint that holds both."""
        if self.forward.adapter is None:
            return split(params, self.frozen)
        own = (ADAPTER, *self.heads)
        return {name: params[name] for name in own}, {name: part for name, part in params.items() if name not in own}

    def whole(self, trained: Tree, fixed: Fixed) -> llama.Params:
        """The params of the whole model, as `llama.forward` reads them."""
        return self.forward.whole(trained, fixed, {})

    def random_params(self, key: jax.Array) -> llama.Params:
        """Random weights, created in their places."""
        embed = self.specs["embed"]["weight"]
        architecture = self.forward.architecture
        assert self.nf4 is None, "random weights in four bits"
        init = jax.jit(lambda key: llama.init(architecture, key, embed.shape[0], embed.dtype), out_shardings=self.places)
        return init(key)

    def abstract_batch(self, rows: int, length: int, slots: int = 0) -> dict[str, jax.ShapeDtypeStruct]:
        """The batch [rows, length] that the step reads, as ShapeDtypeStructs with shardings; `slots` as in `Read`."""
        sizes, named = {"rows": rows, "length": length, "slots": slots}, self.layout.named
        return {
            key: jax.ShapeDtypeStruct(read.shape(sizes), jnp.dtype(read.dtype), sharding=named(read.axes, "compute"))
            for key, read in self.objective.reads.items()
        }

    def lower(self, rows: int, length: int, slots: int = 0) -> Any:
        """The step's program for batches [rows, length], not yet compiled; needs no weights and no data."""
        return self.step.lower(self.abstract_state, self.abstract_fixed, self.abstract_batch(rows, length, slots))

    def compile(self, rows: int, length: int, slots: int = 0) -> Compiled:
        """The step compiled for batches [rows, length]."""
        return Compiled(self.lower(rows, length, slots).compile(), self.step)


def assemble(
    forward: Forward,
    config: OptimizerConfig,
    layout: Layout,
    factory: Factory,
    *,
    steps: int,
    stored_vocab: int | None = None,
    dtype: Any = jnp.float32,
    microbatches: int = 1,
    guard: GuardConfig | None = None,
    others: Mapping[str, Tree] = MappingProxyType({}),
    heads: Mapping[str, Tree] = MappingProxyType({}),
    seed: int = 0,
    nf4: Nf4 | None = None,
) -> Assembly:
    """The Assembly of a run of `steps` steps; UserError where the layout doesn't fit a weight or `config.frozen` matches none.

    `stored_vocab` rows of the vocabulary are stored, where a mesh needs more than the architecture has; weights are stored in `dtype`.
    With an adapter, `nf4` stores its base in four bits. `others` are the WeightSpecs of what is fixed beside the base, such as a teacher's
    weights; `heads` are those of what is trained beside the model, from zero. `seed` draws what is random in a step.
    """
    assert nf4 is None or forward.adapter is not None, "weights in four bits are not trained"
    optimizer, objective = optimizers.make(config, steps), factory(forward)
    specs = llama.specs(forward.architecture, stored_vocab, jnp.dtype(dtype))
    if forward.adapter is None:
        trained, base = split(specs, config.frozen)
    else:
        trained = {ADAPTER: adapters.specs(forward.adapter, specs)}
        base = specs if nf4 is None else frozen.specs(specs, nf4)
        objective = dataclasses.replace(objective, random=objective.random or forward.adapter.dropout > 0)
    trained |= heads
    places = states.shardings(trained, optimizer, layout, guard)
    fixed: dict[str, Tree] = {BASE: base, **others}
    fixed_places: dict[str, Tree] = {name: layout.tree(part, "weights") for name, part in fixed.items()}
    return Assembly(
        forward=forward,
        specs=specs,
        places=layout.tree(specs if nf4 is None else base, "weights"),
        objective=objective,
        optimizer=optimizer,
        layout=layout,
        state_places=places,
        abstract_state=states.abstract(trained, optimizer, places, guard),
        abstract_fixed=states.placed({name: states.shapes_of(part) for name, part in fixed.items()}, fixed_places),
        step=make_step(objective, optimizer, layout, places, fixed_places, microbatches=microbatches, guard=guard, seed=seed),
        frozen=config.frozen,
        guard=guard,
        nf4=nf4,
        heads=heads,
    )
