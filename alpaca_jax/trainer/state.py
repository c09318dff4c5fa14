"""Everything a training run carries from one step to the next."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from alpaca_jax.model import llama
from alpaca_jax.model.tree import by_name
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer import guard as guards
from alpaca_jax.trainer.guard import Guard, GuardConfig
from alpaca_jax.trainer.optimizer import Optimizer, first_average
from alpaca_jax.trainer.weights import name_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Steps done, the index of the next batch (int32 scalars; a rollback may skip batches), params and the optimizer's state.

    `ema` is the average of the trained weights in fp32, where the optimizer asks for one; `guard` remembers the last good losses.
    """

    step: jax.Array
    batch_index: jax.Array
    params: llama.Params
    opt_state: Any
    ema: llama.Params | None = None
    guard: Guard | None = None


def shardings(specs: llama.Params, optimizer: Optimizer, layout: Layout, guard: GuardConfig | None = None) -> State:
    """The NamedSharding of each leaf of the State over these weight specs; allocates nothing.

    What has the shape of its weight (moments, the average) lies where the mesh's `optimizer` mapping puts it; anything else everywhere.
    """
    shapes = _shapes(specs, optimizer, guard)
    known = by_name(layout.tree(specs, "optimizer"))
    sizes = {name: leaf.shape for name, leaf in by_name(shapes.params).items()}

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding:
        name = name_of(path)
        return known[name] if sizes.get(name) == leaf.shape else layout.replicated

    everywhere = jax.tree.map(lambda _: layout.replicated, shapes.guard)
    moments, ema = (jax.tree_util.tree_map_with_path(place, part) for part in (shapes.opt_state, shapes.ema))
    return State(layout.replicated, layout.replicated, layout.tree(specs, "weights"), moments, ema, everywhere)


def start(params: llama.Params, optimizer: Optimizer, places: State, guard: GuardConfig | None = None) -> State:
    """The State of step 0 with these params; the optimizer's moments, the average and the guard are born in their places."""

    def born(params: llama.Params) -> tuple[Any, ...]:
        return optimizer.init(params), first_average(optimizer, params), None if guard is None else guards.empty()

    opt_state, ema, seen = jax.jit(born, out_shardings=(places.opt_state, places.ema, places.guard))(params)
    zero = jax.device_put(jnp.zeros((), jnp.int32), places.step)
    return State(zero, zero + 0, params, opt_state, ema, seen)


def abstract(specs: llama.Params, optimizer: Optimizer, places: State, guard: GuardConfig | None = None) -> State:
    """The State as ShapeDtypeStructs with shardings: what a restore fills."""
    state = _shapes(specs, optimizer, guard)
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, places)


def to_items(state: State) -> dict[str, dict[str, Any]]:
    """The State as a checkpoint names it: `params`, `optimizer` (all the rest) and, where there is one, `ema`.

    Params and average are items of their own, so that they can be read without the optimizer.
    """
    rest = {"step": state.step, "batch_index": state.batch_index, "opt_state": state.opt_state}
    if state.guard is not None:
        rest["guard"] = {"losses": state.guard.losses, "filled": state.guard.filled}
    return {"params": state.params, "optimizer": rest} | ({} if state.ema is None else {"ema": state.ema})


def from_items(items: dict[str, dict[str, Any]]) -> State:
    """The State that `to_items` took apart."""
    rest = items["optimizer"]
    guard = Guard(**rest["guard"]) if "guard" in rest else None
    return State(rest["step"], rest["batch_index"], items["params"], rest["opt_state"], items.get("ema"), guard)


def _shapes(specs: llama.Params, optimizer: Optimizer, guard: GuardConfig | None) -> State:
    params = jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype), specs, is_leaf=lambda leaf: isinstance(leaf, llama.WeightSpec)
    )
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    opt_state, ema = jax.eval_shape(lambda params: (optimizer.init(params), first_average(optimizer, params)), params)
    return State(scalar, scalar, params, opt_state, ema, None if guard is None else jax.eval_shape(lambda: guards.empty()))
