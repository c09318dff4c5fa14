"""Distillation: the divergence of the student's next-token distribution from its teacher's, on the response's tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from alpaca_jax.model import llama
from alpaca_jax.model.tree import Tree
from alpaca_jax.trainer.divergence import Figures, Rule, token_divergence
from alpaca_jax.trainer.forward import Batch, Forward
from alpaca_jax.trainer.objectives import Objective, Read, Terms
from alpaca_jax.trainer.objectives.sft import READS
from alpaca_jax.trainer.signal import Draws, Exact, Signal, Top
from alpaca_jax.trainer.weights import Fixed

TEACHERS, HEADS = "teachers", "heads"  # the parts of `fixed` with the weights of each teacher by name, or with its output matrix alone
SHARES = "shares"  # of the batch, float32 [B, T, N]: the weight of each of several teachers


@dataclass(frozen=True)
class Telling:
    """Where the teacher's signal comes from: a function of (fixed, batch), and what it reads of the batch."""

    signal: Callable[[Fixed, Batch], Signal]
    reads: Mapping[str, Read]


def objective(forward: Forward, telling: Telling, rule: Rule, shared: int) -> Objective:
    """What `rule` minimizes, as the mean over all target tokens of the global batch.

    It reports the divergence at the rule's temperature and the cross-entropy, in nats a token, and the share of tokens on which both
    sides have the same most probable one. The first `shared` words of the vocabulary mean the same to both sides.
    """

    def terms(trained: Tree, fixed: Fixed, batch: Batch) -> Terms:
        total, figures = compared(forward, forward.whole(trained, fixed, batch), telling.signal(fixed, batch), batch, rule, shared)
        weight = batch["weights"].sum()
        extra = {name: ((values * batch["weights"]).sum(), weight) for name, values in figures._asdict().items()}
        return Terms(total, weight, extra)

    return Objective(terms, READS | dict(telling.reads), reports=Figures._fields)


def compared(forward: Forward, params: llama.Params, signal: Signal, batch: Batch, rule: Rule, shared: int) -> tuple[jax.Array, Figures]:
    """What `token_divergence` returns for the student's `params` on a batch."""
    hidden_BTD, weight_VD = forward.hidden(params, batch), forward.head(params)
    with jax.named_scope("loss"):
        return token_divergence(
            hidden_BTD, weight_VD, signal, batch["targets"], batch["weights"], rule, forward.architecture.vocab_size, shared=shared
        )


def live(teachers: Mapping[str, Forward], weights: tuple[float, ...] | None) -> Telling:
    """The teachers themselves, whose weights are in `fixed`. `weights`: those of their mixture; None: the batch has them for each token."""

    def signal(fixed: Fixed, batch: Batch) -> Exact:
        params = fixed[TEACHERS]
        with jax.named_scope("teacher"):
            hidden = tuple(jax.lax.stop_gradient(forward.hidden(params[name], batch)) for name, forward in teachers.items())
        heads = tuple(forward.head(params[name]) for name, forward in teachers.items())
        return Exact(hidden, heads, _shares(batch, weights))

    return Telling(signal, _of_shares(len(teachers), weights))


def exact(teachers: Mapping[str, Forward], dtype: str, weights: tuple[float, ...] | None) -> Telling:
    """The teachers' cached hidden states in `dtype`, whose output matrices are in `fixed`; `weights` as in `live`."""
    keys = {name: hidden_key(number) for number, name in enumerate(teachers)}

    def signal(fixed: Fixed, batch: Batch) -> Exact:
        hidden = tuple(batch[keys[name]].astype(forward.compute_dtype) for name, forward in teachers.items())
        heads = tuple(
            forward.constrain(fixed[HEADS][name]["weight"].astype(forward.compute_dtype), ("vocab", "embed"))
            for name, forward in teachers.items()
        )
        return Exact(hidden, heads, _shares(batch, weights))

    reads = {keys[name]: Read(dtype, ("rows", "length", forward.architecture.hidden_size)) for name, forward in teachers.items()}
    return Telling(signal, reads | _of_shares(len(teachers), weights))


def draws(count: int, ids: str) -> Telling:
    """Cached draws, at most `count` different ones for a token, whose ids have the dtype `ids`."""

    def signal(fixed: Fixed, batch: Batch) -> Draws:
        return Draws(batch["drawn"].astype(jnp.int32), batch["counts"].astype(jnp.int32), batch["entropy"], batch["top"])

    reads = {"drawn": Read(ids, ("rows", "length", count)), "counts": Read("uint8", ("rows", "length", count))}
    return Telling(signal, reads | {"entropy": Read("float32"), "top": Read("int32")})


def top(count: int, ids: str, tail: bool) -> Telling:
    """The `count` cached most probable tokens; without `tail`, as if no others existed."""

    def signal(fixed: Fixed, batch: Batch) -> Top:
        kept = Top(batch["best"].astype(jnp.int32), batch["log_probs"].astype(jnp.float32))
        return kept if tail else kept.renormalized()

    return Telling(signal, {"best": Read(ids, ("rows", "length", count)), "log_probs": Read("float16", ("rows", "length", count))})


def hidden_key(number: int) -> str:
    """The batch's key of the hidden states of a teacher."""
    return f"hidden_{number}"


def _shares(batch: Batch, weights: tuple[float, ...] | None) -> jax.Array | None:
    if weights is None:
        return batch[SHARES]
    if len(weights) == 1:
        return None
    return jnp.broadcast_to(jnp.asarray(weights, jnp.float32), (*batch["tokens"].shape, len(weights)))


def _of_shares(teachers: int, weights: tuple[float, ...] | None) -> dict[str, Read]:
    return {} if weights is not None else {SHARES: Read("float32", ("rows", "length", teachers))}
