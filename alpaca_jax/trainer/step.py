"""One training step: a pure function of (state, fixed, batch), and of the optimizer's numbers, which are arguments of its program."""

import dataclasses
import functools
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
from alpaca_jax.trainer.objectives import KEY, Objective
from alpaca_jax.trainer.optimizer import Optimizer
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.weights import Fixed

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted step `(state, fixed, batch, numbers)`, called without the run's own numbers; `compile` turns it into a `Compiled`."""

    jitted: Any
    numbers: Any  # of the optimizer
    place: jax.sharding.Sharding  # where they lie

    def __call__(self, state: State, fixed: Fixed, batch: Batch) -> tuple[State, Metrics]:
        """The state after a step on the batch, and the step's metrics."""
        return self.jitted(state, fixed, batch, self.placed)

    @functools.cached_property
    def placed(self) -> Any:
        """The numbers on the devices, from which every step reads them."""
        return jax.tree.map(lambda number: jax.make_array_from_callback((), self.place, lambda _: number), self.numbers)

    @property
    def abstract_numbers(self) -> Any:
        """The shapes of the numbers, which are all that the program depends on."""
        return jax.tree.map(lambda number: jax.ShapeDtypeStruct((), number.dtype, sharding=self.place), self.numbers)

    def lower(self, state: State, fixed: Fixed, batch: Batch) -> Any:
        """The program for arguments of these shapes (ShapeDtypeStructs), lowered; the same for all runs that differ in numbers alone."""
        return self.jitted.lower(state, fixed, batch, self.abstract_numbers)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A Step that is compiled for batches of one shape; `program` is JAX's own, with its figures."""

    program: Any
    step: Step

    def __call__(self, state: State, fixed: Fixed, batch: Batch) -> tuple[State, Metrics]:
        """The state after a step on the batch, and the step's metrics."""
        return self.program(state, fixed, batch, self.step.placed)


def make_step(
    objective: Objective,
    optimizer: Optimizer,
    layout: Layout,
    places: State,
    fixed_places: Fixed,
    *,
    microbatches: int = 1,
    guard: GuardConfig | None = None,
    seed: int = 0,
) -> Step:
    """The `Step` of an objective and an optimizer; it donates its state, and never `fixed`.

    Its metrics are the objective's, `gradient_norm` and `bad`. The loss is the sum over the whole batch divided by the global weight,
    whatever the devices and microbatches. A bad step (`trainer.guard`) leaves everything as it was but `step` and `batch_index`. A loss
    spike is noticed only where `guard` asks for it and the State was made with the same one. What a random objective draws is a function
    of (seed, batch index, microbatch).
    """
    rules = guard or GuardConfig()
    assert rules.spike is None or places.guard is not None, "a spike is judged by the State's own guard: give it to `states` too"

    def loss(trained: Tree, fixed: Fixed, batch: Batch) -> tuple[jax.Array, Any]:
        terms = objective.terms(trained, fixed, batch)
        return terms.total, (terms.weight, dict(terms.extra))

    gradient = jax.value_and_grad(loss, has_aux=True)

    def step(state: State, fixed: Fixed, batch: Batch, numbers: Any) -> tuple[State, Metrics]:
        trained = state.trained
        if objective.random:
            batch = {**batch, KEY: jax.random.fold_in(jax.random.key(seed), state.batch_index)}
        sums, grads = accumulate(lambda trained, part: gradient(trained, fixed, part), trained, batch, microbatches)
        total, (weight, extra) = sums
        scale = 1.0 / jnp.maximum(weight, 1.0)
        mean, grads = total * scale, jax.tree.map(lambda grad: grad.astype(jnp.float32) * scale, grads)
        norm = optax.tree.norm(grads)
        bad = guards.is_bad(rules, state.guard, mean, norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, trained, numbers)
        weights = jax.tree.map(lambda weight, change: (weight.astype(jnp.float32) + change).astype(weight.dtype), trained, updates)
        new = (weights, opt_state, optimizer.next_average(state.ema, weights))
        weights, opt_state, ema = jax.tree.map(
            lambda after, before: jnp.where(bad, before, after), new, (trained, state.opt_state, state.ema)
        )
        remembered = None if state.guard is None else guards.remember(state.guard, mean, ~bad & (weight > 0))
        reported = {name: summed / jnp.maximum(count, 1.0) for name, (summed, count) in extra.items()}
        metrics = {"loss": mean, objective.weight: weight, **reported, "gradient_norm": norm, "bad": bad}
        return State(state.step + 1, state.batch_index + 1, weights, opt_state, ema, remembered), metrics

    batch_places = {name: layout.named(read.axes, "compute") for name, read in objective.reads.items()}
    places_in = (places, fixed_places, batch_places, layout.replicated)
    jitted = jax.jit(step, donate_argnums=0, in_shardings=places_in, out_shardings=(places, layout.replicated))
    return Step(jitted, optimizer.numbers, layout.replicated)


def accumulate(gradient: Callable[[Tree, Batch], Any], params: Tree, batch: Batch, microbatches: int) -> Any:
    """What `gradient` returns (a tree of sums: terms and gradients) for the batch, added up over `microbatches` parts of its rows.

    A PRNG key in the batch becomes one of each part. The parts are computed one after another, to save memory; the sums over several of
    them are fp32.
    """
    if microbatches == 1:
        return gradient(params, batch)
    # Rows go to the parts in turn, so that each part has a share of every device's rows.
    parts = {
        name: jax.random.split(x, microbatches) if name == KEY else jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0)
        for name, x in batch.items()
    }

    def add(carry: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(lambda total, more: total + more.astype(jnp.float32), carry, gradient(params, part)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts)))
    return jax.lax.scan(add, zeros, parts)[0]
