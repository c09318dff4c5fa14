"""One training step: a pure function of (state, fixed, batch)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alpaca_jax.model.tree import Tree
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer import guard as guards
from alpaca_jax.trainer.forward import Batch
from alpaca_jax.trainer.guard import GuardConfig
from alpaca_jax.trainer.objectives import Objective
from alpaca_jax.trainer.optimizer import Optimizer
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.weights import Fixed

Metrics = dict[str, jax.Array]
Step = Callable[[State, Fixed, Batch], tuple[State, Metrics]]


def make_step(
    objective: Objective,
    optimizer: Optimizer,
    layout: Layout,
    places: State,
    fixed_places: Fixed,
    *,
    microbatches: int = 1,
    guard: GuardConfig | None = None,
) -> Any:
    """The jitted `Step`; it donates its state, and never `fixed`.

    Its metrics are the objective's, `gradient_norm` and `bad`. The loss is the sum over the whole batch divided by the global weight,
    whatever the devices and microbatches. A bad step (`trainer.guard`) leaves everything as it was but `step` and `batch_index`. A loss
    spike is noticed only where `guard` asks for it and the State was made with the same one.
    """
    rules = guard or GuardConfig()
    assert rules.spike is None or places.guard is not None, "a spike is judged by the State's own guard: give it to `states` too"

    def loss(trained: Tree, fixed: Fixed, batch: Batch) -> tuple[jax.Array, Any]:
        terms = objective.terms(trained, fixed, batch)
        return terms.total, (terms.weight, dict(terms.extra))

    gradient = jax.value_and_grad(loss, has_aux=True)

    def step(state: State, fixed: Fixed, batch: Batch) -> tuple[State, Metrics]:
        trained = state.trained
        sums, grads = accumulate(lambda trained, part: gradient(trained, fixed, part), trained, batch, microbatches)
        total, (weight, extra) = sums
        scale = 1.0 / jnp.maximum(weight, 1.0)
        mean, grads = total * scale, jax.tree.map(lambda grad: grad.astype(jnp.float32) * scale, grads)
        norm = optax.tree.norm(grads)
        bad = guards.is_bad(rules, state.guard, mean, norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        weights = jax.tree.map(lambda weight, change: (weight.astype(jnp.float32) + change).astype(weight.dtype), trained, updates)
        new = (weights, opt_state, optimizer.next_average(state.ema, weights))
        weights, opt_state, ema = jax.tree.map(
            lambda after, before: jnp.where(bad, before, after), new, (trained, state.opt_state, state.ema)
        )
        remembered = None if state.guard is None else guards.remember(state.guard, mean, ~bad & (weight > 0))
        reported = {name: summed / jnp.maximum(count, 1.0) for name, (summed, count) in extra.items()}
        metrics = {"loss": mean, objective.weight: weight, **reported, "gradient_norm": norm, "bad": bad}
        return State(state.step + 1, state.batch_index + 1, weights, opt_state, ema, remembered), metrics

    places_in = (places, fixed_places, dict.fromkeys(objective.reads, layout.batch))
    return jax.jit(step, donate_argnums=0, in_shardings=places_in, out_shardings=(places, layout.replicated))


def accumulate(gradient: Callable[[Tree, Batch], Any], params: Tree, batch: Batch, microbatches: int) -> Any:
    """What `gradient` returns (a tree of sums: terms and gradients) for the batch, added up over `microbatches` parts of its rows.

    The parts are computed one after another, to save memory; the sums over several of them are fp32.
    """
    if microbatches == 1:
        return gradient(params, batch)
    # Rows go to the parts in turn, so that each part has a share of every device's rows.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0), batch)

    def add(carry: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(lambda total, more: total + more.astype(jnp.float32), carry, gradient(params, part)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts)))
    return jax.lax.scan(add, zeros, parts)[0]
