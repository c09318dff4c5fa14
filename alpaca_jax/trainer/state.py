"""What a training step changes: the trained weights, the optimizer's state, and how far the run is."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from alpaca_jax.model import llama
from alpaca_jax.model.tree import Tree, by_name
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer import guard as guards
from alpaca_jax.trainer.guard import Guard, GuardConfig
from alpaca_jax.trainer.optimizer import Optimizer
from alpaca_jax.trainer.weights import join, name_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Steps done, the index of the next batch (int32 scalars; a rollback may skip batches), trained weights and the optimizer's state.

    `ema` is the fp32 average of the trained weights, where the optimizer keeps one; `guard` remembers the last good losses. Weights that
    no step changes are not in here: they are `fixed`, the step's second argument.
    """

    step: jax.Array
    batch_index: jax.Array
    trained: Tree
    opt_state: Any
    ema: Tree | None = None
    guard: Guard | None = None


def shardings(specs: Tree, optimizer: Optimizer, layout: Layout, guard: GuardConfig | None = None) -> State:
    """The NamedSharding of each leaf of the State over these specs of trained weights; allocates nothing.

    What has the shape of its weight (moments, the average) is placed by the mesh's `optimizer` mapping; anything else is replicated.
    """
    shapes = _shapes(specs, optimizer, guard)
    known = by_name(layout.tree(specs, "optimizer"))
    sizes = {name: leaf.shape for name, leaf in by_name(shapes.trained).items()}

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding:
        name = name_of(path)
        return known[name] if sizes.get(name) == leaf.shape else layout.replicated

    replicated = jax.tree.map(lambda _: layout.replicated, shapes.guard)
    moments, ema = (jax.tree_util.tree_map_with_path(place, part) for part in (shapes.opt_state, shapes.ema))
    step: Any = layout.replicated  # a State of shardings, as `_shapes` returns one of shapes
    return State(step, step, layout.tree(specs, "weights"), moments, ema, replicated)


def start(trained: Tree, optimizer: Optimizer, places: State, guard: GuardConfig | None = None) -> State:
    """The State of step 0 with these weights; moments, average and guard are created in their places."""

    def create(trained: Tree) -> tuple[Any, ...]:
        zero = jnp.zeros((), jnp.int32)
        return zero, zero, optimizer.init(trained), optimizer.first_average(trained), None if guard is None else guards.empty()

    where = (places.step, places.batch_index, places.opt_state, places.ema, places.guard)
    step, batch_index, opt_state, ema, empty = jax.jit(create, out_shardings=where)(trained)
    return State(step, batch_index, trained, opt_state, ema, empty)


def abstract(specs: Tree, optimizer: Optimizer, places: State, guard: GuardConfig | None = None) -> State:
    """The State as ShapeDtypeStructs with shardings: what a restore fills and a planner compiles."""
    return placed(_shapes(specs, optimizer, guard), places)


def placed(shapes: Any, places: Any) -> Any:
    """A tree of ShapeDtypeStructs with the shardings of `places`."""
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places)


def to_items(state: State, kept: Tree | None = None) -> dict[str, dict[str, Any]]:
    """The State as a checkpoint names it: `params`, `optimizer` (all the rest) and, where there is one, `ema`.

    Params and average are items of their own, so that they can be read without the optimizer. `kept` are fixed weights that are saved
    among the params because no base model holds them.
    """
    rest = {"step": state.step, "batch_index": state.batch_index, "opt_state": state.opt_state}
    if state.guard is not None:
        rest["guard"] = {"losses": state.guard.losses, "filled": state.guard.filled}
    params = join(state.trained, kept or {})
    return {"params": params, "optimizer": rest} | ({} if state.ema is None else {"ema": state.ema})


def from_items(items: dict[str, dict[str, Any]]) -> State:
    """The State that `to_items` took apart, with all of `params` as its trained weights."""
    rest = items["optimizer"]
    guard = Guard(**rest["guard"]) if "guard" in rest else None
    return State(rest["step"], rest["batch_index"], items["params"], rest["opt_state"], items.get("ema"), guard)


def shapes_of(specs: Tree) -> Tree:
    """The ShapeDtypeStruct of each weight."""
    return jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype), specs, is_leaf=lambda leaf: isinstance(leaf, llama.WeightSpec)
    )


def _shapes(specs: Tree, optimizer: Optimizer, guard: GuardConfig | None) -> State:
    trained = shapes_of(specs)
    scalar: Any = jax.ShapeDtypeStruct((), jnp.int32)
    opt_state, ema = jax.eval_shape(lambda trained: (optimizer.init(trained), optimizer.first_average(trained)), trained)
    return State(scalar, scalar, trained, opt_state, ema, None if guard is None else jax.eval_shape(lambda: guards.empty()))
