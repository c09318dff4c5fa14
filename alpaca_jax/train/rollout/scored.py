"""The log-probabilities of sampled tokens under the run's own weights and under the reference, as the trainer computes them."""

import functools
from typing import Any

import jax
import numpy as np

from alpaca_jax.data.pack import Batch
from alpaca_jax.model.llama import Params
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.tokens import token_logps

READS = ("tokens", "targets", "segments", "positions")


class Policies:
    """The policy that is trained and, where there is one, the reference, at one temperature."""

    def __init__(self, forward: Forward, layout: Layout, temperature: float, reference: Params | None) -> None:
        self._forward, self._layout, self._temperature, self._reference = forward, layout, temperature, reference

    def logps(self, params: Params, batch: Batch) -> np.ndarray:
        """The log-probability of each target of the whole batch, fp32 [rows, length], in every process."""
        rows = len(batch["tokens"])
        own = self._layout.own_rows(rows)
        placed = self._layout.place({name: batch[name][own] for name in READS}, rows)
        return np.asarray(jax.device_get(self._program(params, placed)))

    def reference_logps(self, batch: Batch) -> np.ndarray:
        """The same under the reference."""
        assert self._reference is not None
        return self.logps(self._reference, batch)

    @functools.cached_property
    def _program(self) -> Any:
        forward, temperature = self._forward, self._temperature

        def logps(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
            hidden_BTD, head_VD = forward.hidden(params, batch), forward.head(params)
            return token_logps(hidden_BTD, head_VD, batch["targets"], forward.architecture.vocab_size, temperature=temperature)

        return jax.jit(logps, out_shardings=self._layout.replicated)
