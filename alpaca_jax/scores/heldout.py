"""The held-out response loss: nats a token on answers that were never trained on, every token weighing the same."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.pack import Batch
from alpaca_jax.data.pipeline import heldout_batches
from alpaca_jax.metrics import WeightedMean
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
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
    """Held-out examples laid into packed rows once, and scored for any params of the architecture."""

    def __init__(self, architecture: Architecture, examples: ExampleStore, rows: int, length: int, compute_dtype: str = "float32") -> None:
        self.architecture = architecture
        self.examples = len(examples)
        self.batches: list[Batch] = heldout_batches(examples, rows, length) if len(examples) else []
        self.compute_dtype = compute_dtype

    def score(self, params: llama.Params, progress: Callable[[int], None] = lambda done: None) -> Score:
        """Returns the loss of `params`, NaN where no example is held out; `progress` hears how many batches are done."""
        mean = WeightedMean()
        for done, batch in enumerate(self.batches, start=1):
            total, weight = _batch_loss(self.architecture, self.compute_dtype, params, batch)
            mean.add(total, weight)
            progress(done)
        return Score(mean.value, round(mean.weight), self.examples)


@partial(jax.jit, static_argnums=(0, 1))
def _batch_loss(architecture: Architecture, compute_dtype: str, params: llama.Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    return response_loss(Forward(architecture, jnp.dtype(compute_dtype)), params, batch)
