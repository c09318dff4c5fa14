"""One training step: a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Tree
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer import guard as guards
from alpaca_jax.trainer.guard import GuardConfig
from alpaca_jax.trainer.loss import Batch, response_loss
from alpaca_jax.trainer.optimizer import Optimizer, next_average
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.weights import join, split

Metrics = dict[str, jax.Array]


def make_step(
    architecture: Architecture,
    optimizer: Optimizer,
    layout: Layout,
    places: State,
    *,
    compute_dtype: Any = jnp.float32,
    remat: str = "none",
    microbatches: int = 1,
    guard: GuardConfig | None = None,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """The jitted step; it donates its state. Metrics: `loss` (mean nats over target tokens), `targets`, `gradient_norm`, `bad`.

    The loss is the sum over the whole batch divided by the global count of target tokens, whatever the devices and microbatches. A bad
    step (`trainer.guard`) leaves everything as it was but `step` and `batch_index`. A loss spike is seen only where `guard` asks for it
    and the State was made with the same one.
    """
    rules = guard or GuardConfig()
    assert rules.spike is None or places.guard is not None, "a spike is judged by the State's own guard: give it to `states` too"

    def summed_loss(trained: Tree, frozen: Tree, batch: Batch) -> tuple[jax.Array, jax.Array]:
        params = join(trained, frozen)
        return response_loss(architecture, params, batch, compute_dtype=compute_dtype, remat=remat, constrain=layout.constrain)

    gradient = jax.value_and_grad(summed_loss, has_aux=True)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        trained, frozen = split(state.params, optimizer.frozen)
        (total, targets), grads = accumulate(lambda trained, batch: gradient(trained, frozen, batch), trained, batch, microbatches)
        scale = 1.0 / jnp.maximum(targets, 1.0)
        loss, grads = total * scale, jax.tree.map(lambda grad: grad.astype(jnp.float32) * scale, grads)
        norm = optax.tree.norm(grads)
        bad = guards.is_bad(rules, state.guard, loss, norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        weights = jax.tree.map(lambda weight, change: (weight.astype(jnp.float32) + change).astype(weight.dtype), trained, updates)
        new = (weights, opt_state, next_average(optimizer, state.ema, weights))
        weights, opt_state, ema = jax.tree.map(
            lambda after, before: jnp.where(bad, before, after), new, (trained, state.opt_state, state.ema)
        )
        seen = None if state.guard is None else guards.remember(state.guard, loss, ~bad & (targets > 0))
        metrics = {"loss": loss, "targets": targets, "gradient_norm": norm, "bad": bad}
        return State(state.step + 1, state.batch_index + 1, join(weights, frozen), opt_state, ema, seen), metrics

    return jax.jit(step, donate_argnums=0, in_shardings=(places, layout.batch), out_shardings=(places, layout.replicated))


def accumulate(gradient: Callable, params: Any, batch: Batch, microbatches: int) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """((summed loss, targets), summed gradients) of the batch, taken in `microbatches` parts of its rows one after another.

    The sums over several parts are fp32.
    """
    if microbatches == 1:
        return gradient(params, batch)
    # Rows are dealt to the parts in turns, so that each part keeps a share of every device's rows.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0), batch)

    def add(carry: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(lambda total, more: total + more.astype(jnp.float32), carry, gradient(params, part)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts)))
    return jax.lax.scan(add, zeros, parts)[0]
