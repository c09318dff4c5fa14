"""A reward model from pairs: a number for each answer, read from the hidden state of its last token, EOS."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alpaca_jax.model import llama
from alpaca_jax.model.llama import WeightSpec
from alpaca_jax.model.tree import Tree
from alpaca_jax.trainer import preferences
from alpaca_jax.trainer.forward import Batch, Forward
from alpaca_jax.trainer.objectives import Objective, Terms
from alpaca_jax.trainer.objectives.preference import PAIRS, REAL, SLOTS, Measure, by_segment
from alpaca_jax.trainer.objectives.sft import READS as TOKENS
from alpaca_jax.trainer.weights import SCORE, Fixed

REPORTS = ("margin", "accuracy", "chosen_reward", "rejected_reward", "chosen_length", "rejected_length")


def head(hidden_size: int) -> Tree:
    """The WeightSpec of the vector that a hidden state is multiplied with, as `score.weight` of transformers; trained from zero."""
    return {"weight": WeightSpec((1, hidden_size), jnp.dtype(jnp.float32), ("unsharded", "embed"))}


def pairwise(forward: Forward, centre: float) -> Objective:
    """The mean loss over the pairs of the global batch; reports means over pairs of what `REPORTS` names."""
    measure = measure_pairs(forward, centre)

    def terms(trained: Tree, fixed: Fixed, batch: Batch) -> Terms:
        return measure(forward.whole(trained, fixed, batch), batch)

    return Objective(terms, TOKENS | {REAL: SLOTS}, PAIRS, REPORTS)


def measure_pairs(forward: Forward, centre: float) -> Measure:
    """The terms of `pairwise`, of whole params."""

    def terms(params: llama.Params, batch: Batch) -> Terms:
        rewards_BS = answer_rewards(forward, params, batch)
        lengths_BS = by_segment(batch["weights"], batch["segments"], rewards_BS.shape[1])
        chosen, rejected, real = rewards_BS[:, 0::2], rewards_BS[:, 1::2], batch[REAL][:, 0::2]
        margins, number = chosen - rejected, real.sum()
        sums = {"margin": margins, "accuracy": (jnp.sign(margins) + 1) / 2, "chosen_reward": chosen, "rejected_reward": rejected}
        sums |= {"chosen_length": lengths_BS[:, 0::2], "rejected_length": lengths_BS[:, 1::2]}
        losses = preferences.reward(chosen, rejected, centre)
        return Terms((losses * real).sum(), number, {name: ((each * real).sum(), number) for name, each in sums.items()})

    return terms


def answer_rewards(forward: Forward, params: llama.Params, batch: Batch) -> Float[Array, "B S"]:
    """The fp32 reward of the text in each slot of each row, 0 in empty ones."""
    hidden_BTD, segments_BT = forward.hidden(params, batch), batch["segments"]
    weight_D = params[SCORE]["weight"][0].astype(hidden_BTD.dtype)
    with jax.named_scope("loss"):
        scores_BT = jnp.einsum("btd,d->bt", hidden_BTD, weight_D, preferred_element_type=jnp.float32)
    ends_BT = segments_BT != jnp.pad(segments_BT[:, 1:], ((0, 0), (0, 1)))
    return by_segment(jnp.where(ends_BT, scores_BT, 0.0), segments_BT, batch[REAL].shape[1])
