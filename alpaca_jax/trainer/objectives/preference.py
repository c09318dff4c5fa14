"""Preference learning on packed rows: the two answers of a pair are neighbouring segments of a row, and all sums stay within the row.

Slot s of a row is its segment s + 1. The pair p of a row has the slots 2p (chosen) and 2p + 1 (rejected); for single answers (KTO) the slot
2p is the answer to its own prompt and 2p + 1 the same prompt with the answer to another one, which is what their KL is estimated from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from alpaca_jax.model import llama
from alpaca_jax.model.tree import Tree
from alpaca_jax.trainer import preferences
from alpaca_jax.trainer.forward import Batch, Forward
from alpaca_jax.trainer.objectives import Objective, Read, Terms
from alpaca_jax.trainer.objectives.sft import READS as TOKENS
from alpaca_jax.trainer.preferences import Answers
from alpaca_jax.trainer.tokens import token_logps
from alpaca_jax.trainer.weights import Fixed

REAL, REFERENCE, DESIRED = "real", "reference", "desired"  # facts of a segment: 1 where it is filled, log ref(y|x), whether it is wanted
SLOTS = Read("float32", ("rows", "slots"))
PAIRS, ANSWERS = "pairs", "answers"  # what a loss is a mean over
SIDES = ("chosen_logps", "rejected_logps", "chosen_reward", "rejected_reward", "chosen_length", "rejected_length")
OF_PAIRS = ("margin", "accuracy", *SIDES)
OF_ANSWERS = (*SIDES, "kl")

Measure = Callable[[llama.Params, Batch], Terms]  # the terms of the whole model


@dataclass(frozen=True)
class PairLoss:
    """A loss of pairs, elementwise: `loss(chosen, rejected)`, the implicit `reward(answers)`, and the likelihood of the chosen answer.

    `likelihood` weighs the mean negative log-probability of the chosen answer's tokens, or with `prompts` of its prompt's tokens too.
    """

    loss: Callable[[Answers, Answers], jax.Array]
    reward: Callable[[Answers], jax.Array]
    needs_reference: bool
    likelihood: float = 0.0
    prompts: bool = False


def pairwise(forward: Forward, pair: PairLoss) -> Objective:
    """The mean loss over the pairs of the global batch; reports means over pairs of what `OF_PAIRS` names.

    Log-probabilities are sums over an answer in nats, lengths are tokens, `accuracy` is the share of pairs whose chosen answer has the
    larger implicit reward (equal ones count half), `margin` the mean difference of the two.
    """
    reads = TOKENS | {REAL: SLOTS} | ({REFERENCE: SLOTS} if pair.needs_reference else {})
    return _objective(forward, measure_pairs(forward, pair), reads, PAIRS, OF_PAIRS)


def measure_pairs(forward: Forward, pair: PairLoss) -> Measure:
    """The terms of `pairwise`, of whole params."""

    def terms(params: llama.Params, batch: Batch) -> Terms:
        logps_BT = answer_logps(forward, params, batch)
        answers = segment_answers(logps_BT, batch)
        chosen, rejected = (_side(answers, first) for first in (0, 1))
        real = batch[REAL][:, 0::2]
        losses = pair.loss(chosen, rejected)
        if pair.likelihood:
            losses += pair.likelihood * -(_text_means(logps_BT, batch)[:, 0::2] if pair.prompts else chosen.mean)
        margins = pair.reward(chosen) - pair.reward(rejected)
        wins = (jnp.sign(margins) + 1) / 2
        sums = {"margin": margins, "accuracy": wins} | _figures(pair.reward, chosen, rejected)
        number = real.sum()
        return Terms((losses * real).sum(), number, {name: ((each * real).sum(), number) for name, each in sums.items()})

    return terms


def unpaired(forward: Forward, beta: float, desirable: float, undesirable: float) -> Objective:
    """KTO: the mean weighted loss over the answers of the global batch; reports what `OF_ANSWERS` names, chosen being the desired answers.

    The KL is the mean over the mismatched answers that are computed together: all of a step, or of a microbatch where there are several.
    """
    reads = TOKENS | {REAL: SLOTS, REFERENCE: SLOTS, DESIRED: SLOTS}
    return _objective(forward, measure_answers(forward, beta, desirable, undesirable), reads, ANSWERS, OF_ANSWERS)


def measure_answers(forward: Forward, beta: float, desirable: float, undesirable: float) -> Measure:
    """The terms of `unpaired`, of whole params."""

    def terms(params: llama.Params, batch: Batch) -> Terms:
        answers = segment_answers(answer_logps(forward, params, batch), batch)
        own, mismatched = (_side(answers, first) for first in (0, 1))
        real, wanted = (batch[name][:, 0::2] for name in (REAL, DESIRED))
        number = real.sum()
        kl = jax.lax.stop_gradient(jnp.maximum((mismatched.gain * real).sum() / jnp.maximum(number, 1.0), 0.0))
        weights = (desirable * wanted + undesirable * (1 - wanted)) * real
        total = (preferences.kto(own, wanted, kl, beta) * weights).sum()

        counted = {"chosen": real * wanted, "rejected": real * (1 - wanted)}
        sums = {}
        for name, each in _figures(lambda answers: beta * answers.gain, own, own).items():
            side = counted[name.split("_")[0]]
            sums[name] = ((each * side).sum(), side.sum())
        return Terms(total, number, sums | {"kl": (kl * number, number)})

    return terms


def answer_logps(forward: Forward, params: llama.Params, batch: Batch) -> Float[Array, "B T"]:
    """The fp32 log-probability in nats of each next token."""
    hidden_BTD, head_VD = forward.hidden(params, batch), forward.head(params)
    with jax.named_scope("loss"):
        return token_logps(hidden_BTD, head_VD, batch["targets"], forward.architecture.vocab_size)


def segment_answers(logps_BT: Float[Array, "B T"], batch: Batch) -> Answers:
    """The log-probability and length of the answer in each slot of each row [B, slots], beside its reference where the batch has one."""
    slots = batch[REAL].shape[1]
    weights_BT = batch["weights"]
    logps = by_segment(logps_BT * weights_BT, batch["segments"], slots)
    lengths = by_segment(weights_BT, batch["segments"], slots)
    return Answers(logps, batch.get(REFERENCE, jnp.zeros_like(logps)), lengths)


def by_segment(values_BT: Float[Array, "B T"], segments_BT: Int[Array, "B T"], slots: int) -> Float[Array, "B S"]:
    """The sum of the values of each segment of each row, fp32."""
    inside_BTS = segments_BT[..., None] == jnp.arange(1, slots + 1)
    return jnp.where(inside_BTS, values_BT[..., None], 0.0).sum(axis=1)


def _objective(forward: Forward, measure: Measure, reads: dict[str, Read], weight: str, reports: tuple[str, ...]) -> Objective:
    def terms(trained: Tree, fixed: Fixed, batch: Batch) -> Terms:
        return measure(forward.whole(trained, fixed, batch), batch)

    return Objective(terms, reads, weight, reports)


def _side(answers: Answers, first: int) -> Answers:
    return Answers(*(each[:, first::2] for each in answers))


def _text_means(logps_BT: jax.Array, batch: Batch) -> jax.Array:
    """The mean log-probability of all tokens of each segment but its first, [B, slots]."""
    segments_BT = batch["segments"]
    follows_BT = jnp.pad(segments_BT[:, 1:] == segments_BT[:, :-1], ((0, 0), (0, 1))).astype(jnp.float32)
    slots = batch[REAL].shape[1]
    sums, counts = (by_segment(values, segments_BT, slots) for values in (logps_BT * follows_BT, follows_BT))
    return sums / jnp.maximum(counts, 1.0)


def _figures(reward: Callable[[Answers], jax.Array], chosen: Answers, rejected: Answers) -> dict[str, jax.Array]:
    of_each = {"logps": lambda each: each.logps, "reward": reward, "length": lambda each: each.lengths}
    sides = {"chosen": chosen, "rejected": rejected}
    return {f"{side}_{name}": of(each) for name, of in of_each.items() for side, each in sides.items()}
