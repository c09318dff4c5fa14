"""The held-out response loss: nats a token on answers that were never trained on, every token weighing the same."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.pack import Batch, best_fit
from alpaca_jax.data.pipeline import heldout_batches
from alpaca_jax.metrics import WeightedMean
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives.sft import token_losses


@dataclasses.dataclass(frozen=True)
class Spread:
    """The summed loss (nats) and the number of response tokens of each held-out example, float64 [N], in the order of the examples."""

    losses: np.ndarray
    tokens: np.ndarray

    @property
    def stderr(self) -> float | None:
        """The standard error of sum(losses) / sum(tokens), a ratio whose terms are drawn together (Cochran 1977, section 6.3)."""
        number = len(self.tokens)
        if number < 2 or not self.tokens.sum():
            return None
        residuals = self.losses - self.losses.sum() / self.tokens.sum() * self.tokens
        return float(np.sqrt(number / (number - 1) * np.square(residuals).sum()) / self.tokens.sum())


@dataclasses.dataclass(frozen=True)
class Score:
    """A mean loss in nats a response token (EOS included), its perplexity, and how much it is a mean of."""

    loss: float
    tokens: int
    examples: int
    each: Spread = dataclasses.field(default_factory=lambda: Spread(np.zeros(0), np.zeros(0)), repr=False, compare=False)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)

    @property
    def stderr(self) -> float | None:
        """The standard error of the loss over examples, whose tokens hang together; None of fewer than two."""
        return self.each.stderr


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
        self._order = np.concatenate([np.zeros(0, np.int64), *best_fit(examples.lengths, length)]).astype(np.int64)  # in which they lie

    def score(self, params: llama.Params, progress: Callable[[int], None] = lambda done: None) -> Score:
        """Returns the loss of `params`, NaN where no example is held out; `progress` hears how many batches are done."""
        mean, own_rows = WeightedMean(), self._layout.own_rows(self._rows)
        sums: list[np.ndarray] = []
        for done, batch in enumerate(self.batches, start=1):
            placed = self._layout.place({name: rows[own_rows] for name, rows in batch.items()}, self._rows)
            total, weight, losses_BT = _batch_loss(self._forward, self._layout.replicated, params, placed)
            mean.add(float(total), float(weight))
            sums.append(_by_example(batch, np.asarray(losses_BT)))
            progress(done)
        return Score(mean.value, round(mean.weight), self.examples, self._spread(sums))

    def _spread(self, sums: Sequence[np.ndarray]) -> Spread:
        laid = np.concatenate([np.zeros((0, 2)), *sums])
        assert len(laid) == self.examples
        inverse = np.argsort(self._order)
        return Spread(laid[inverse, 0], laid[inverse, 1])


def _by_example(batch: Batch, losses_BT: np.ndarray) -> np.ndarray:
    """The summed loss and weight of each example of a batch, float64 [n, 2], in the order in which they lie in its rows."""
    segments_BT = batch["segments"]
    count = int(segments_BT.max(initial=0)) + 1
    places_BT = np.arange(len(segments_BT))[:, None] * count + segments_BT
    pairs = [
        np.bincount(places_BT.ravel(), np.float64(values).ravel(), len(segments_BT) * count) for values in (losses_BT, batch["weights"])
    ]
    taken = np.bincount(places_BT.ravel(), minlength=len(segments_BT) * count) > 0
    taken[::count] = False  # empty slots
    return np.stack(pairs, axis=1)[taken]


@partial(jax.jit, static_argnums=(0, 1))
def _batch_loss(
    forward: Forward, everywhere: jax.sharding.Sharding, params: llama.Params, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return jax.lax.with_sharding_constraint(token_losses(forward, params, batch), everywhere)
