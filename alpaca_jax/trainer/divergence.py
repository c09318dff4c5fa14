"""The divergence between a teacher's next-token distribution and the student's, without ever holding the logits of either side.

Chunk by chunk along the row, both sides' scores are computed, compared, and reduced to the gradients of the student's hidden states and
of its output matrix, as in `trainer.loss`. With the student's probabilities p, a divergence whose derivative with respect to p_i is G_i
has the gradient p_i G_i - p_i sum_j p_j G_j with respect to the scores, so each divergence states its value and its flow p_i G_i alone.

Sources: forward KL with a temperature and its factor T^2 from arXiv:1503.02531; reverse KL and the generalized Jensen-Shannon divergence
from GKD, arXiv:2306.13649 (Eq. 1; at beta 0 and 1 the two KLs, as TRL has it). Sums are fp32 and in nats.
"""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from alpaca_jax.trainer.loss import chunks, scores
from alpaca_jax.trainer.signal import Draws, Exact, Signal, Top

CHUNK = 32  # tokens of a row whose scores are in memory at a time; several arrays are as wide as the vocabulary here
LEAST = 1e-7  # probability of the outcome "any other token", where float32 can't tell it from none


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is minimized: (1 - cross_entropy) T^2 divergence + cross_entropy x the cross-entropy of the batch's own targets.

    `forward` is KL(teacher | student), `reverse` KL(student | teacher), `jsd` beta KL(teacher | m) + (1 - beta) KL(student | m) with the
    mixture m = beta teacher + (1 - beta) student. The last tends to zero at either end, where by custom it stands for the two KLs;
    `limits` divides it by beta (1 - beta), so that it tends to the forward KL at 0 and to the reverse KL at 1.
    """

    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    beta: float = 0.5
    limits: bool = False
    temperature: float = 1.0
    cross_entropy: float = 0.0


class Figures(NamedTuple):
    """Of each token: the divergence at the rule's temperature, the cross-entropy, and 1 where both sides have the same top token."""

    divergence: Float[Array, "B T"]
    cross_entropy: Float[Array, "B T"]
    agreement: Float[Array, "B T"]


def token_divergence(
    hidden_BTD: Float[Array, "B T D"],
    weight_VD: Float[Array, "V D"],
    signal: Signal,
    targets_BT: Int[Array, "B T"],
    weights_BT: Float[Array, "B T"],
    rule: Rule,
    vocab_size: int,
    *,
    shared: int | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Array, ""], Figures]:
    """The fp32 sum over tokens of weight x what the rule minimizes, and each token's figures, through which no gradient flows.

    Rows of `weight_VD` from `vocab_size` on are padding. The first `shared` words (default: all) mean the same to both sides; the others
    have no part in the divergence. Nothing of the teacher receives a gradient.
    """
    assert rule.divergence == "forward" or not isinstance(signal, Draws), "draws give the forward KL only"
    total, figures = _summed(hidden_BTD, weight_VD, signal, targets_BT, weights_BT, rule, (vocab_size, shared or vocab_size), chunk)
    return total, jax.tree.map(jax.lax.stop_gradient, figures)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _summed(hidden_BTD, weight_VD, signal, targets_BT, weights_BT, rule, sizes, chunk):  # type: ignore[no-untyped-def]
    def add(total, part):  # type: ignore[no-untyped-def]
        hidden_BCD, told, targets_BC, weights_BC = part
        losses_BC, figures, _ = _compared(hidden_BCD, weight_VD, dataclasses.replace(signal, **told), targets_BC, weights_BC, rule, sizes)
        return total + losses_BC.sum(), figures

    parts = _parts(chunk, hidden_BTD, signal.per_token(), targets_BT, weights_BT)
    total, figures = jax.lax.scan(add, jnp.zeros((), jnp.float32), parts)
    return total, jax.tree.map(_rows, figures)


def _forward(hidden_BTD, weight_VD, signal, targets_BT, weights_BT, rule, sizes, chunk):  # type: ignore[no-untyped-def]
    def add(carry, part):  # type: ignore[no-untyped-def]
        total, grad_DV = carry
        hidden_BCD, told, targets_BC, weights_BC = part
        losses_BC, figures, grad_BCV = _compared(
            hidden_BCD, weight_VD, dataclasses.replace(signal, **told), targets_BC, weights_BC, rule, sizes
        )
        grad_BCV = grad_BCV.astype(hidden_BCD.dtype)
        grad_BCD = jnp.einsum("bcv,vd->bcd", grad_BCV, weight_VD)
        # In this order the narrow side is the one that is transposed (see model.linear).
        tokens = (((0, 1), (0, 1)), ((), ()))
        grad_DV += jax.lax.dot_general(hidden_BCD, grad_BCV, tokens, preferred_element_type=jnp.float32)
        return (total + losses_BC.sum(), grad_DV), (figures, grad_BCD)

    parts = _parts(chunk, hidden_BTD, signal.per_token(), targets_BT, weights_BT)
    start = (jnp.zeros((), jnp.float32), jnp.zeros(weight_VD.shape[::-1], jnp.float32))
    (total, grad_DV), (figures, grads) = jax.lax.scan(add, start, parts)
    return (total, jax.tree.map(_rows, figures)), (_rows(grads), grad_DV.T.astype(weight_VD.dtype))


def _backward(rule, sizes, chunk, grads, upstream):  # type: ignore[no-untyped-def]
    grad_BTD, grad_VD = ((grad.astype(jnp.float32) * upstream[0]).astype(grad.dtype) for grad in grads)
    return grad_BTD, grad_VD, None, None, None


_summed.defvjp(_forward, _backward)


def _compared(
    hidden_BCD: jax.Array,
    weight_VD: jax.Array,
    signal: Signal,
    targets_BC: jax.Array,
    weights_BC: jax.Array,
    rule: Rule,
    sizes: tuple[int, int],
) -> tuple[jax.Array, Figures, jax.Array]:
    """The weighted losses of a chunk's tokens, its figures, and the gradient of the losses' sum with respect to the scores."""
    vocab_size, shared = sizes
    heat, mix = rule.temperature, rule.cross_entropy
    scores_BCV = scores(hidden_BCD, weight_VD, vocab_size)
    words = jnp.arange(scores_BCV.shape[-1])
    student_BCV = jax.nn.log_softmax(jnp.where(words < shared, scores_BCV, -jnp.inf) / heat, axis=-1)
    divergence_BC, slope_BCV, top_BC = _slope(student_BCV, signal, rule, shared)
    agreement_BC = (student_BCV.argmax(axis=-1) == top_BC).astype(jnp.float32)

    target_BC = jnp.take_along_axis(scores_BCV, targets_BC[..., None], axis=-1)[..., 0]
    normalizer_BC = jax.nn.logsumexp(scores_BCV, axis=-1)
    losses_BC = (1 - mix) * heat**2 * divergence_BC + mix * (normalizer_BC - target_BC)
    grad_BCV = (1 - mix) * heat * slope_BCV
    if mix:
        is_target = (words == targets_BC[..., None]).astype(jnp.float32)
        grad_BCV += mix * (jnp.exp(scores_BCV - normalizer_BC[..., None]) - is_target)
    # Where no loss is asked for there may be no signal either, whose divergence would be no number.
    used_BC = weights_BC != 0
    losses_BC, divergence_BC = (jnp.where(used_BC, x, 0.0) for x in (losses_BC * weights_BC, divergence_BC))
    grad_BCV = jnp.where(used_BC[..., None], grad_BCV * weights_BC[..., None], 0.0)
    return losses_BC, Figures(divergence_BC, normalizer_BC - target_BC, agreement_BC), grad_BCV


def _slope(student_BCV: jax.Array, signal: Signal, rule: Rule, shared: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each token the divergence, its gradient with respect to scores / T, and the teacher's top token."""
    if isinstance(signal, Exact):
        return _slope_of_exact(student_BCV, signal, rule, shared)
    return _slope_of_draws(student_BCV, signal) if isinstance(signal, Draws) else _slope_of_top(student_BCV, signal, rule)


def _slope_of_exact(student_BCV: jax.Array, signal: Exact, rule: Rule, shared: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    teacher_BCV = teacher_log_probs(signal, rule.temperature, shared, student_BCV.shape[-1])
    divergence_BC, flow_BCV = _outcomes(student_BCV, teacher_BCV, rule)
    return divergence_BC, flow_BCV - jnp.exp(student_BCV) * flow_BCV.sum(axis=-1, keepdims=True), teacher_BCV.argmax(axis=-1)


def _slope_of_draws(student_BCV: jax.Array, signal: Draws) -> tuple[jax.Array, jax.Array, jax.Array]:
    counts_BCM = signal.counts.astype(jnp.float32)
    shares_BCM = counts_BCM / jnp.maximum(counts_BCM.sum(axis=-1, keepdims=True), 1.0)
    log_probs_BCM = jnp.take_along_axis(student_BCV, signal.ids, axis=-1)
    divergence_BC = -jnp.where(shares_BCM > 0, shares_BCM * log_probs_BCM, 0.0).sum(axis=-1) - signal.entropy
    return divergence_BC, _added(jnp.exp(student_BCV), signal.ids, -shares_BCM), signal.top


def _slope_of_top(student_BCV: jax.Array, signal: Top, rule: Rule) -> tuple[jax.Array, jax.Array, jax.Array]:
    teacher_BCK = signal.log_probs.astype(jnp.float32)
    known_BCK = jnp.isfinite(teacher_BCK)
    ids_BCK = jnp.where(known_BCK, signal.ids, student_BCV.shape[-1])  # an empty slot is a place that no scatter writes to
    student_BCK = jnp.where(known_BCK, jnp.take_along_axis(student_BCV, signal.ids, axis=-1), -jnp.inf)
    probs_BCV, probs_BCK = jnp.exp(student_BCV), jnp.exp(student_BCK)
    other_BC1 = jnp.maximum(_added(probs_BCV, ids_BCK, -probs_BCK).sum(axis=-1, keepdims=True), LEAST)
    teacher_other_BC1 = jnp.maximum(1.0 - jnp.exp(teacher_BCK).sum(axis=-1, keepdims=True), LEAST)

    def with_other(log_probs_BCK: jax.Array, other_BC1: jax.Array) -> jax.Array:
        return jnp.concatenate([log_probs_BCK, jnp.log(other_BC1)], axis=-1)

    divergence_BC, flow_BCN = _outcomes(with_other(student_BCK, other_BC1), with_other(teacher_BCK, teacher_other_BC1), rule)
    # The flow of the last outcome is shared out among its tokens by their probabilities.
    rate_BC1 = flow_BCN[..., -1:] / other_BC1
    own_BCK = jnp.where(known_BCK, flow_BCN[..., :-1] - probs_BCK * rate_BC1, 0.0)
    slope_BCV = _added(probs_BCV * (rate_BC1 - flow_BCN.sum(axis=-1, keepdims=True)), ids_BCK, own_BCK)
    return divergence_BC, slope_BCV, signal.ids[..., 0]


def teacher_log_probs(signal: Exact, temperature: float, shared: int, width: int) -> Float[Array, "B C V"]:
    """The fp32 log-probabilities of the teachers' mixture over the first `shared` of `width` words; minus infinity for the others."""
    each = [
        jax.nn.log_softmax(scores(hidden_BCD, weight_VD[:width], shared) / temperature, axis=-1)
        for hidden_BCD, weight_VD in zip(signal.hidden, signal.heads, strict=True)
    ]
    each = [jnp.pad(one, ((0, 0), (0, 0), (0, width - one.shape[-1])), constant_values=-jnp.inf) for one in each]
    if len(each) == 1:
        return each[0]
    shares = jnp.full((1, 1, len(each)), 1 / len(each)) if signal.shares is None else signal.shares
    weights = jnp.log(shares / jnp.maximum(shares.sum(axis=-1, keepdims=True), LEAST))
    return jax.nn.logsumexp(jnp.stack([one + weights[..., n, None] for n, one in enumerate(each)]), axis=0)


def _outcomes(student: jax.Array, teacher: jax.Array, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """The divergence of two distributions [..., N] of log-probabilities, and its flow to each of the student's outcomes."""
    probs, taught, beta = jnp.exp(student), jnp.exp(teacher), rule.beta
    if rule.divergence == "forward" or (rule.divergence == "jsd" and beta == 0):
        return _expected(taught, teacher - student).sum(axis=-1), -taught
    if rule.divergence == "reverse" or beta == 1:
        each = _expected(probs, student - teacher)
        return each.sum(axis=-1), each
    mixture = jnp.logaddexp(student + jnp.log1p(-beta), teacher + jnp.log(beta))
    scale = 1 / (beta * (1 - beta)) if rule.limits else 1.0
    each = (1 - beta) * scale * _expected(probs, student - mixture)
    return (beta * scale * _expected(taught, teacher - mixture) + each).sum(axis=-1), each


def _expected(probs: jax.Array, values: jax.Array) -> jax.Array:
    """Probability x value, and 0 where there is no probability, whatever the value."""
    return jnp.where(probs > 0, probs * values, 0.0)


def _added(to_BCV: jax.Array, ids_BCK: jax.Array, what_BCK: jax.Array) -> jax.Array:
    """`to` with values added at the words `ids`; a word outside the vocabulary is left out."""
    rows, places = jnp.ogrid[: ids_BCK.shape[0], : ids_BCK.shape[1]]
    return to_BCV.at[rows[..., None], places[..., None], ids_BCK].add(what_BCK, mode="drop")


def _parts(chunk: int, *trees: object) -> tuple[object, ...]:
    return jax.tree.map(lambda x: chunks(chunk, x)[0], trees)


def _rows(parts: jax.Array) -> jax.Array:
    """[T / C, B, C, ...] as [B, T, ...]."""
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1, *parts.shape[3:])
