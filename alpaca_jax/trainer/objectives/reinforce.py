"""Reinforcement learning from sampled answers: GRPO and its relatives, as functions of log-probabilities and advantages.

GRPO: Shao et al. 2024, arXiv:2402.03300. DAPO: Yu et al. 2025, arXiv:2503.14476. Dr. GRPO: Liu et al. 2025, arXiv:2503.20783.
GSPO: Zheng et al. 2025, arXiv:2507.18071. RLOO: Ahmadian et al. 2024, arXiv:2402.14740. They differ in the choices of a `Rule`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from alpaca_jax.model.tree import Tree
from alpaca_jax.trainer.forward import Batch, Forward
from alpaca_jax.trainer.objectives import Objective, Read, Sum, Terms
from alpaca_jax.trainer.rules import Rule
from alpaca_jax.trainer.tokens import token_logps
from alpaca_jax.trainer.weights import Fixed

READS = {name: Read("int32") for name in ("tokens", "targets", "segments", "positions")}
READS |= {name: Read("float32") for name in ("weights", "advantages", "sampled")}
FIGURES = "figures"  # [rows, F, 2]: sums and their weights of what is known of a row's answers beside the step, such as their rewards


class Tokens(NamedTuple):
    """What is known of each token; all [B, T], fp32 but the segments. `weights`: 1 where the token belongs to an answer that counts."""

    logps: Float[Array, "B T"]
    old: Float[Array, "B T"]  # under the policy that sampled
    advantages: Float[Array, "B T"]
    weights: Float[Array, "B T"]
    segments: Int[Array, "B T"]
    reference: Float[Array, "B T"] | None = None


def losses(rule: Rule, tokens: Tokens) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Sum]]:
    """The summed loss, the weight that divides it (answers, or with `average=tokens` tokens), and the figures `clipped` and `kl`.

    -min(ratio A, clip(ratio) A) + beta (exp(d) - d - 1), d = reference - logps, of each token: an answer counts once, whatever its length,
    unless the average is over tokens.
    """
    w, n = tokens.weights, _of_answer(tokens.weights, tokens.segments)
    shares = w / jnp.maximum(n, 1.0)
    log_ratio = jnp.where(w > 0, tokens.logps - tokens.old, 0.0)
    if rule.ratio != "token":
        log_ratio = _of_answer(log_ratio * (shares if rule.ratio == "mean" else w), tokens.segments)
    ratio, (below, above) = jnp.exp(log_ratio), rule.clip
    kept = jnp.clip(ratio, 1 - below, 1 + above)
    loss = -jnp.minimum(ratio * tokens.advantages, kept * tokens.advantages)
    clipped = (ratio * tokens.advantages > kept * tokens.advantages).astype(jnp.float32)
    figures = {"clipped": ((clipped * w).sum(), w.sum())}
    if tokens.reference is not None:
        ahead = jnp.where(w > 0, tokens.reference - tokens.logps, 0.0)
        divergence = jnp.exp(ahead) - ahead - 1
        loss += rule.beta * divergence
        figures["kl"] = ((divergence * w).sum(), w.sum())
    if rule.average == "tokens":
        return (loss * w).sum(), w.sum(), figures
    counted = w / rule.longest if rule.average == "longest" else shares
    return (loss * counted).sum(), shares.sum(), figures


def objective(forward: Forward, rule: Rule, *, old: bool = False, reference: bool = False, reports: tuple[str, ...] = ()) -> Objective:
    """The loss of sampled answers by `rule`. `old`, `reference`: the batch has log-probabilities of these policies.

    Without `old` the policy that sampled is the one that is trained, so that the ratio is 1 and only its gradient counts. `sampled` holds
    the sampler's own log-probabilities (0: unknown); their mean distance from the trainer's is reported. `reports` names FIGURES.
    """
    own = ("clipped", *(("kl",) if reference else ()), *(("sampler_distance",) if rule.temperature == 1 else ()))
    more = [name for name, there in (("old", old), ("reference", reference)) if there]
    reads = READS | {name: Read("float32") for name in more} | {FIGURES: Read("float32", ("rows", len(reports), 2))}

    def terms(trained: Tree, fixed: Fixed, batch: Batch) -> Terms:
        params = forward.whole(trained, fixed, batch)
        hidden_BTD, head_VD, size = forward.hidden(params, batch), forward.head(params), forward.architecture.vocab_size
        with jax.named_scope("loss"):
            logps = token_logps(hidden_BTD, head_VD, batch["targets"], size, temperature=rule.temperature)
            before = batch["old"] if old else jax.lax.stop_gradient(logps)
            tokens = Tokens(logps, before, batch["advantages"], batch["weights"], batch["segments"], batch.get("reference"))
            total, weight, extra = losses(rule, tokens)
        known = jnp.where(batch["sampled"] < 0, batch["weights"], 0.0)
        extra["sampler_distance"] = ((jnp.abs(logps - batch["sampled"]) * known).sum(), known.sum())
        sums = batch[FIGURES].sum(0)
        extra |= {name: (sums[number, 0], sums[number, 1]) for number, name in enumerate(reports)}
        return Terms(total, weight, {name: jax.lax.stop_gradient(extra[name]) for name in (*own, *reports)})

    weight = "tokens" if rule.average == "tokens" else "answers"
    return Objective(terms, reads, weight, (*own, *reports))


def _of_answer(values_BT: Float[Array, "B T"], segments_BT: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """The sum of the values over each token's own segment, which never reaches beyond its row."""
    most = values_BT.shape[1] + 1
    total = lambda values_T, segments_T: jax.ops.segment_sum(values_T, segments_T, most)[segments_T]  # noqa: E731
    return jax.vmap(total)(values_BT, segments_BT)
