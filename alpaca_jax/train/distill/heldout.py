"""How far a student is from its teacher on held-out records."""

from collections.abc import Callable
from functools import partial

import jax

from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.pipeline import heldout_batches
from alpaca_jax.distributed import beat
from alpaca_jax.metrics import WeightedMean
from alpaca_jax.model.llama import Params
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer.divergence import Rule
from alpaca_jax.trainer.forward import Batch, Forward
from alpaca_jax.trainer.objectives.distill import Telling, compared
from alpaca_jax.trainer.objectives.sft import READS
from alpaca_jax.trainer.signal import Signal
from alpaca_jax.trainer.weights import Fixed


class Comparison:
    """Held-out examples that carry their teacher's signal, laid into packed rows once."""

    def __init__(
        self, forward: Forward, telling: Telling, shared: int, store: ExampleStore, rows: int, length: int, layout: Layout
    ) -> None:
        self._forward, self._telling, self._shared, self._layout = forward, telling, shared, layout
        devices = layout.parts("batch", "compute")
        self._rows = -(-rows // devices) * devices
        self._batches = heldout_batches(store, self._rows, length) if len(store) else []

    def figures(self, step: int, params: Params, fixed: Fixed) -> dict[str, float]:
        """`heldout_kl` and `heldout_agreement` of the student's `params`; empty where nothing is held out.

        The first is KL(teacher | student) at temperature 1, in nats a response token; the second is the share of these tokens on which
        both have the same most probable one.
        """
        kl, agreement = WeightedMean(), WeightedMean()
        own, reads = self._layout.own_rows(self._rows), READS | dict(self._telling.reads)
        axes = {name: read.axes for name, read in reads.items()}
        for batch in self._batches:
            placed = self._layout.place({name: batch[name][own] for name in reads}, self._rows, axes)
            everywhere = self._layout.replicated
            of_kl, of_agreement, weight = map(
                float, _sums(self._forward, self._telling.signal, self._shared, everywhere, params, fixed, placed)
            )
            kl.add(of_kl, weight)
            agreement.add(of_agreement, weight)
            beat(step)
        return {"heldout_kl": kl.value, "heldout_agreement": agreement.value} if self._batches else {}


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sums(
    forward: Forward,
    signal: Callable[[Fixed, Batch], Signal],
    shared: int,
    everywhere: jax.sharding.Sharding,
    params: Params,
    fixed: Fixed,
    batch: Batch,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    _, figures = compared(forward, params, signal(fixed, batch), batch, Rule(), shared)
    weights = batch["weights"]
    sums = ((figures.divergence * weights).sum(), (figures.agreement * weights).sum(), weights.sum())
    return jax.lax.with_sharding_constraint(sums, everywhere)
