"""Everything a training run carries from one step to the next."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alpaca_jax.model import llama
from alpaca_jax.sharding import Layout


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Steps done, the index of the next batch (int32 scalars; a rollback may skip batches), params and the optimizer's state."""

    step: jax.Array
    batch_index: jax.Array
    params: llama.Params
    opt_state: Any


def shardings(specs: llama.Params, optimizer: optax.GradientTransformation, layout: Layout) -> State:
    """The NamedSharding of each leaf of the State over these weight specs; allocates nothing."""
    shapes = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype), specs, is_leaf=_is_spec)
    opt_state = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, shapes),
        layout.tree(specs, "optimizer"),
        transform_non_params=lambda _: layout.replicated,
    )
    return State(layout.replicated, layout.replicated, layout.tree(specs, "weights"), opt_state)


def start(params: llama.Params, optimizer: optax.GradientTransformation, places: State) -> State:
    """The State of step 0 with these params, the optimizer's moments born in their places."""
    opt_state = jax.jit(optimizer.init, out_shardings=places.opt_state)(params)
    zero = jax.device_put(jnp.zeros((), jnp.int32), places.step)
    return State(zero, zero + 0, params, opt_state)


def abstract(specs: llama.Params, optimizer: optax.GradientTransformation, places: State) -> State:
    """The State as ShapeDtypeStructs with shardings: what a restore fills."""
    shapes = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype), specs, is_leaf=_is_spec)
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    state = State(scalar, scalar, shapes, jax.eval_shape(optimizer.init, shapes))
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, places)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, llama.WeightSpec)
