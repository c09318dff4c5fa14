"""Supervised fine-tuning: the cross-entropy of the response's tokens, as in Stanford Alpaca's recipe."""

import jax
from jaxtyping import Array, Float

from alpaca_jax.model import llama
from alpaca_jax.model.tree import Tree
from alpaca_jax.trainer.forward import Batch, Forward
from alpaca_jax.trainer.loss import CHUNK, cross_entropies, summed_cross_entropy
from alpaca_jax.trainer.objectives import Objective, Read, Terms
from alpaca_jax.trainer.weights import Fixed

READS = {name: Read("int32") for name in ("tokens", "targets", "segments", "positions")} | {"weights": Read("float32")}


def objective(forward: Forward) -> Objective:
    """The mean cross-entropy over all target tokens of the global batch, in nats."""

    def terms(trained: Tree, fixed: Fixed, batch: Batch) -> Terms:
        return Terms(*response_loss(forward, forward.whole(trained, fixed, batch), batch))

    return Objective(terms, READS)


def response_loss(forward: Forward, params: llama.Params, batch: Batch, chunk: int = CHUNK) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The summed cross-entropy in nats of the weighted target tokens, and the sum of their weights, both fp32.

    `batch` holds the arrays [B, T] that `READS` names.
    """
    hidden_BTD, weight_VD = forward.hidden(params, batch), forward.head(params)
    with jax.named_scope("loss"):
        total = summed_cross_entropy(hidden_BTD, weight_VD, batch["targets"], batch["weights"], forward.architecture.vocab_size, chunk)
    return total, batch["weights"].sum()


def token_losses(
    forward: Forward, params: llama.Params, batch: Batch, chunk: int = CHUNK
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, "B T"]]:
    """What `response_loss` returns, and the loss of each token times its weight, fp32."""
    hidden_BTD, weight_VD = forward.hidden(params, batch), forward.head(params)
    with jax.named_scope("loss"):
        total, losses_BT = cross_entropies(
            hidden_BTD, weight_VD, batch["targets"], batch["weights"], forward.architecture.vocab_size, chunk
        )
    return total, batch["weights"].sum(), losses_BT
