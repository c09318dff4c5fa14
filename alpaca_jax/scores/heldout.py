"""The held-out response loss: nats a token on answers that were never trained on, every token weighing the same."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.pack import Batch
from alpaca_jax.data.pipeline import heldout_batches
from alpaca_jax.metrics import WeightedMean
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives.sft import response_loss


@dataclasses.dataclass(frozen=True)
class Score:
    """A mean loss in nats a response token (EOS included), its perplexity, and how much it is a mean of."""

    loss: float
    tokens: int
    examples: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)


class Scorer:
    """Held-out examples laid into packed rows once, and scored for any params of the architecture that lie on `layout`.

    A batch has `rows` rows, or the next number that the devices can share. In a job of several processes all of them score together.
    """

    def __init__(
        self, architecture: Architecture, examples: ExampleStore, rows: int, length: int, layout: Layout, compute_dtype: str = "float32"
    ) -> None:
        self.examples = len(examples)
        self._layout, self._forward = layout, Forward(architecture, jnp.dtype(compute_dtype), constrain=layout.constrain)
        devices = layout.parts("batch", "compute")
        self._rows = -(-rows // devices) * devices
        self.batches: list[Batch] = heldout_batches(examples, self._rows, length) if len(examples) else []

    def score(self, params: llama.Params, progress: Callable[[int], None] = lambda done: None) -> Score:
        """Returns the loss of `params`, NaN where no example is held out; `progress` hears how many batches are done."""
        mean, own_rows = WeightedMean(), self._layout.own_rows(self._rows)
        for done, batch in enumerate(self.batches, start=1):
            placed = self._layout.place({name: rows[own_rows] for name, rows in batch.items()}, self._rows)
            mean.add(*_batch_loss(self._forward, self._layout.replicated, params, placed))
            progress(done)
        return Score(mean.value, round(mean.weight), self.examples)


@partial(jax.jit, static_argnums=(0, 1))
def _batch_loss(
    forward: Forward, everywhere: jax.sharding.Sharding, params: llama.Params, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return jax.lax.with_sharding_constraint(response_loss(forward, params, batch), everywhere)
