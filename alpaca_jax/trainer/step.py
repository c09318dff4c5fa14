"""One training step: a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alpaca_jax.model.architecture import Architecture
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer.loss import Batch, response_loss
from alpaca_jax.trainer.state import State

Metrics = dict[str, jax.Array]


def make_step(
    architecture: Architecture,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    places: State,
    *,
    compute_dtype: Any = jnp.float32,
    remat: str = "none",
    microbatches: int = 1,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """The jitted step; it donates its state. Metrics: `loss` (mean nats over target tokens), `targets`, `gradient_norm`.

    The loss is the sum over the whole batch divided by the global count of target tokens, whatever the devices and microbatches.
    """

    def summed_loss(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return response_loss(architecture, params, batch, compute_dtype=compute_dtype, remat=remat, constrain=layout.constrain)

    gradient = jax.value_and_grad(summed_loss, has_aux=True)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        (total, targets), grads = accumulate(gradient, state.params, batch, microbatches)
        scale = 1.0 / jnp.maximum(targets, 1.0)
        grads = jax.tree.map(lambda grad: grad * scale.astype(grad.dtype), grads)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count; ours stays strict under test
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": total * scale, "targets": targets, "gradient_norm": optax.tree.norm(grads)}
        return State(state.step + 1, state.batch_index + 1, params, opt_state), metrics

    return jax.jit(step, donate_argnums=0, in_shardings=(places, layout.batch), out_shardings=(places, layout.replicated))


def accumulate(gradient: Callable, params: Any, batch: Batch, microbatches: int) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """((summed loss, targets), summed gradients) of the batch, taken in `microbatches` parts of its rows one after another."""
    if microbatches == 1:
        return gradient(params, batch)
    # Rows are dealt to the parts in turns, so that each part keeps a share of every device's rows.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0), batch)

    def add(carry: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, gradient(params, part)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts)))
    return jax.lax.scan(add, zeros, parts)[0]
