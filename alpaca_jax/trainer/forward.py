"""The model as an objective sees it: weights and a batch in, hidden states and the output projection out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from alpaca_jax.model import adapter as adapters
from alpaca_jax.model import llama
from alpaca_jax.model.adapter import Adapter
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Tree
from alpaca_jax.trainer.weights import ADAPTER, BASE, SCORE, Fixed, join

Batch = Mapping[str, Any]  # arrays [rows, length]: JAX's in a step, numpy's before they are placed


@dataclass(frozen=True)
class Forward:
    """An architecture and how it is computed: the dtype of products, what the backward pass recomputes, where activations lie.

    With an `adapter`, the trained weights are put onto the fixed ones.
    """

    architecture: Architecture
    compute_dtype: Any = jnp.float32
    remat: str = "none"  # one of model.remat.POLICIES
    constrain: llama.Constrain = llama.unconstrained
    adapter: Adapter | None = None

    def whole(self, trained: Tree, fixed: Fixed, batch: Batch) -> llama.Params:
        """The params of the whole model, of the trained weights and the fixed ones; a key in `batch` draws the adapter's dropout."""
        if self.adapter is None:
            return join(trained, fixed.get(BASE, {}))
        params = adapters.attach(fixed[BASE], self.adapter, trained[ADAPTER], batch.get("key"))
        return params | {name: part for name, part in trained.items() if name != ADAPTER}

    def hidden(self, params: llama.Params, batch: Batch) -> Float[Array, "B T D"]:
        """The hidden states after the last norm, of the batch's `tokens`, `segments` and `positions` (int32 [B, T])."""
        return llama.forward(
            self.architecture,
            {name: part for name, part in params.items() if name != SCORE},
            batch["tokens"],
            batch["segments"],
            batch["positions"],
            compute_dtype=self.compute_dtype,
            remat=self.remat,
            constrain=self.constrain,
        )

    def head(self, params: llama.Params) -> Float[Array, "V D"]:
        """The matrix of the last product; rows from the architecture's `vocab_size` on are padding."""
        return self.constrain(llama.output_weight(params).astype(self.compute_dtype), ("vocab", "embed"))
