"""The chunked divergences against dense ones in fp64, against TRL's numbers, and draws against what they are drawn from."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.trainer.divergence import Rule, _outcomes, token_divergence
from alpaca_jax.trainer.signal import Draws, Exact, Top

B, T, D, E, V = 2, 6, 5, 4, 9  # E: the teacher's width
RULES = [
    Rule(),
    Rule("reverse"),
    Rule("jsd", 0.1),
    Rule("jsd", 0.3, limits=True),
    Rule("forward", temperature=2.5, cross_entropy=0.25),
    Rule("jsd", 0.2, temperature=2.0, cross_entropy=0.5),
]


def told(seed=0, rows=V, teacher_rows=V):
    """Random (hidden, head, teacher's hidden, teacher's head, targets, weights)."""
    random = np.random.default_rng(seed)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    weights = (random.uniform(size=(B, T)) > 0.3) * random.uniform(0.5, 2, (B, T))
    return draw(B, T, D), draw(rows, D), draw(B, T, E), draw(teacher_rows, E), random.integers(0, V, (B, T)), weights.astype(np.float32)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def dense(s, t, rule):
    """The divergence of fp64 log-probabilities, by the definitions."""
    p, q, b = np.exp(s), np.exp(t), rule.beta
    if rule.divergence == "forward" or (rule.divergence == "jsd" and b == 0):
        return (q * (t - s)).sum(-1)
    if rule.divergence == "reverse" or b == 1:
        return (p * (s - t)).sum(-1)
    m = np.log(b * q + (1 - b) * p)
    return (b * (q * (t - m)).sum(-1) + (1 - b) * (p * (s - m)).sum(-1)) / (b * (1 - b) if rule.limits else 1)


def dense_total(z, t, targets, weights, rule):
    """The loss of fp64 scores, given the teacher's log-probabilities at the rule's temperature."""
    cross_entropy = -np.take_along_axis(log_softmax(z), targets[..., None], -1)[..., 0]
    each = (1 - rule.cross_entropy) * rule.temperature**2 * dense(log_softmax(z / rule.temperature), t, rule)
    return (weights * (each + rule.cross_entropy * cross_entropy)).sum()


def slopes(function, x, step=1e-6):
    """Central differences of a function of an fp64 array."""
    found = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        found[at] = (function(up) - function(down)) / (2 * step)
    return found


def ours(signal, targets, weights, rule, vocab_size=V, **more):
    def total(hidden, head):
        return token_divergence(hidden, head, signal, jnp.asarray(targets), jnp.asarray(weights), rule, vocab_size, **more)

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_values_and_gradients_equal_dense_fp64_ones(rule):
    hidden, head, teacher, teacher_head, targets, weights = told()
    z, t = (
        hidden.astype(np.float64) @ head.T.astype(np.float64),
        log_softmax(teacher.astype(np.float64) @ teacher_head.T / rule.temperature),
    )
    (total, figures), (of_hidden, of_head) = ours(Exact((teacher,), (teacher_head,)), targets, weights, rule, chunk=2)(hidden, head)
    of_scores = slopes(lambda z: dense_total(z, t, targets, weights, rule), z)
    np.testing.assert_allclose(total, dense_total(z, t, targets, weights, rule), rtol=1e-5)
    np.testing.assert_allclose(of_hidden, of_scores @ head, atol=1e-5)
    np.testing.assert_allclose(of_head, np.einsum("btv,btd->vd", of_scores, hidden), atol=1e-5)
    used = weights > 0
    np.testing.assert_allclose(figures.divergence[used], dense(log_softmax(z / rule.temperature), t, rule)[used], atol=1e-5)
    np.testing.assert_array_equal(figures.agreement, z.argmax(-1) == t.argmax(-1))


def test_the_limits_of_the_scaled_divergence_are_the_two_kls():
    z = np.random.default_rng(1).normal(size=(2, V))
    s, t = (jnp.asarray(log_softmax(x), jnp.float32) for x in z)
    for beta, limit in ((1e-4, "forward"), (1 - 1e-4, "reverse")):
        (near, slope), (at, slope_at) = (_outcomes(s, t, rule) for rule in (Rule("jsd", beta, limits=True), Rule(limit)))
        assert float(near) == pytest.approx(float(at), rel=5e-3)
        flat = [each - jnp.exp(s) * each.sum() for each in (slope, slope_at)]
        np.testing.assert_allclose(*flat, atol=2e-3)


@pytest.mark.parametrize(("teacher_rows", "rule"), [(8, Rule("forward", cross_entropy=0.5)), (9, Rule("jsd", 0.4)), (14, Rule("reverse"))])
def test_padded_rows_and_words_of_one_side_alone_never_enter(rule, teacher_rows):
    hidden, head, teacher, teacher_head, targets, weights = told(2, rows=12, teacher_rows=teacher_rows)
    shared = min(V, teacher_rows)
    (total, _), (of_hidden, of_head) = ours(Exact((teacher,), (teacher_head,)), targets, weights, rule, V, shared=shared)(hidden, head)
    z, t = hidden.astype(np.float64) @ head[:V].T, log_softmax(teacher.astype(np.float64) @ teacher_head[:shared].T)
    both = log_softmax(z[..., :shared])
    cross_entropy = -np.take_along_axis(log_softmax(z), targets[..., None], -1)[..., 0]
    each = (1 - rule.cross_entropy) * dense(both, t, rule) + rule.cross_entropy * cross_entropy
    np.testing.assert_allclose(total, (weights * each).sum(), rtol=1e-5)
    assert np.isfinite(of_hidden).all()
    assert not np.asarray(of_head)[V:].any()  # padding gets no gradient
    garbage = head.copy()
    garbage[V:] = 50.0
    np.testing.assert_allclose(
        ours(Exact((teacher,), (teacher_head,)), targets, weights, rule, V, shared=shared)(hidden, garbage)[0][0], float(total)
    )


def test_several_teachers_are_a_mixture_or_one_of_them_at_each_token():
    hidden, head, teacher, teacher_head, targets, weights = told(3)
    _, _, other, other_head, _, _ = told(4)
    pair = (teacher, other), (teacher_head, other_head)
    t = [log_softmax(h.astype(np.float64) @ w.T) for h, w in zip(*pair, strict=True)]
    z = hidden.astype(np.float64) @ head.T
    mixed = np.log(0.25 * np.exp(t[0]) + 0.75 * np.exp(t[1]))
    shares = np.broadcast_to(np.float32([1, 3]), (B, T, 2))
    (total, _), _ = ours(Exact(*pair, shares), targets, weights, Rule())(hidden, head)
    np.testing.assert_allclose(total, dense_total(z, mixed, targets, weights, Rule()), rtol=1e-5)
    chosen = np.arange(T) % 2
    one_hot = np.broadcast_to(np.eye(2, dtype=np.float32)[chosen], (B, T, 2))
    (total, _), (of_hidden, _) = ours(Exact(*pair, one_hot), targets, weights, Rule("reverse"))(hidden, head)
    np.testing.assert_allclose(total, dense_total(z, np.where(chosen[:, None], t[1], t[0]), targets, weights, Rule("reverse")), rtol=1e-5)
    assert np.isfinite(of_hidden).all()


def best(t, k):
    ids = np.argsort(-t, axis=-1)[..., :k].astype(np.int32)
    return ids, np.take_along_axis(t, ids, -1).astype(np.float32)


@pytest.mark.parametrize("rule", [Rule("reverse"), Rule("jsd", 0.3)], ids=str)
def test_top_tokens_with_all_others_as_one_outcome(rule):
    hidden, head, teacher, teacher_head, targets, weights = told(5)
    z, t = hidden.astype(np.float64) @ head.T.astype(np.float64), log_softmax(teacher.astype(np.float64) @ teacher_head.T)
    ids, log_probs = best(t, 3)
    log_probs[0, 0, 2] = -np.inf  # an empty slot
    ids[0, 0, 2] = 0

    def bucketed(z):
        s = log_softmax(z)
        p, q = np.exp(s), np.exp(t)
        known = np.zeros((B, T, V), bool)
        np.put_along_axis(known, ids[..., :2], True, -1)
        third = np.take_along_axis(known, ids[..., 2:], -1)
        np.put_along_axis(known, ids[..., 2:], np.isfinite(log_probs[..., 2:]) | third, -1)
        # Every token outside has its share of the one outcome, in proportion: that leaves the divergence of the outcomes.
        other = ~known
        ratio = (q * other).sum(-1, keepdims=True) / (p * other).sum(-1, keepdims=True)
        return dense_total(z, np.log(np.where(other, p * ratio, q)), targets, weights, rule)

    (total, _), (of_hidden, _) = ours(Top(ids, log_probs), targets, weights, rule, chunk=3)(hidden, head)
    np.testing.assert_allclose(total, bucketed(z), rtol=1e-5)
    np.testing.assert_allclose(of_hidden, slopes(bucketed, z) @ head, atol=1e-5)


def test_top_tokens_bound_the_divergence_and_equal_it_where_all_have_a_slot():
    hidden, head, teacher, teacher_head, targets, weights = told(6)
    t = log_softmax(teacher.astype(np.float64) @ teacher_head.T)
    for rule in (Rule(), Rule("jsd", 0.5)):
        whole = float(ours(Exact((teacher,), (teacher_head,)), targets, weights, rule)(hidden, head)[0][0])
        partial = [float(ours(Top(*best(t, k)), targets, weights, rule)(hidden, head)[0][0]) for k in (3, V)]
        assert partial == sorted(partial)
        assert partial[-1] == pytest.approx(whole, rel=1e-5)
        assert partial[0] < whole


def drawn(random, t, count):
    """A cache of `count` draws at each token."""
    counts = random.multinomial(count, np.exp(t) / np.exp(t).sum(-1, keepdims=True))
    ids = np.broadcast_to(np.arange(V, dtype=np.int32), counts.shape)
    return Draws(ids, counts.astype(np.int32), -(np.exp(t) * t).sum(-1).astype(np.float32), t.argmax(-1).astype(np.int32))


def test_draws_give_the_forward_kl_and_its_gradient_without_bias_and_renormalized_top_tokens_do_not():
    hidden, head, teacher, teacher_head, targets, weights = told(7)
    t = log_softmax(teacher.astype(np.float64) @ teacher_head.T)
    (exact, _), (gradient, _) = ours(Exact((teacher,), (teacher_head,)), targets, weights, Rule())(hidden, head)
    random = np.random.default_rng(0)
    caches = [drawn(random, t, 4) for _ in range(1000)]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *caches)

    @jax.jit
    @jax.vmap
    def each(signal):
        total = lambda hidden: token_divergence(hidden, jnp.asarray(head), signal, jnp.asarray(targets), jnp.asarray(weights), Rule(), V)  # noqa: E731
        return jax.value_and_grad(total, has_aux=True)(jnp.asarray(hidden))

    (totals, _), gradients = each(together)

    def away(found, true):  # in standard errors of the mean over caches
        found = np.asarray(found, np.float64)
        error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
        return (found.mean(axis=0) - np.asarray(true)) / np.maximum(error, 1e-9)

    assert abs(away(totals, exact)) < 2
    scores = away(gradients, gradient)[weights > 0]
    assert np.mean(np.abs(scores) < 2) > 0.9  # of 40 independent figures 95% are expected within two standard errors
    assert (scores**2).mean() < 1.6
    total = ours(Top(*best(t, 3)).renormalized(), targets, weights, Rule())(hidden, head)[1][0]
    bias = np.abs(np.asarray(total) - np.asarray(gradient)).max()
    spread = np.asarray(gradients).std(axis=0).max() / np.sqrt(1000)
    assert bias > 10 * spread  # no number of such caches would take it away


def test_the_gradient_has_the_dtypes_of_what_it_is_of_and_no_figure_carries_one():
    hidden, head = jnp.ones((B, T, D), jnp.bfloat16), jnp.ones((V, D), jnp.bfloat16)
    teacher = Exact((jnp.ones((B, T, E), jnp.bfloat16),), (jnp.ones((V, E), jnp.bfloat16),))
    zeros, ones = jnp.zeros((B, T), jnp.int32), jnp.ones((B, T))

    def total(hidden, head):
        return token_divergence(hidden, head, teacher, zeros, ones, Rule(), V)

    (value, figures), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(hidden, head)
    assert (value.dtype, grads[0].dtype, grads[1].dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    assert all(x.dtype == jnp.float32 for x in figures)
    assert not jax.grad(lambda h: total(h, head)[1].divergence.sum())(hidden).any()


def test_tokens_without_weight_need_no_signal():
    hidden, head, teacher, teacher_head, targets, weights = told(8)
    weights[:, :3] = 0
    broken = teacher.copy()
    broken[:, :3] = np.nan
    results = [ours(Exact((one,), (teacher_head,)), targets, weights, Rule("jsd"))(hidden, head) for one in (teacher, broken)]
    for one, other in zip(*map(jax.tree.leaves, (results[0][1], results[1][1])), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_array_as_wide_as_the_vocabulary_has_all_tokens():
    """The largest array of the program is a chunk's scores or the output matrix, on either side."""
    length, vocabulary = 64, 500
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, length, D), (vocabulary, D), (1, length, E), (vocabulary, E))]

    def loss(hidden, head, teacher, teacher_head):
        zeros, ones = jnp.zeros((1, length), jnp.int32), jnp.ones((1, length))
        return token_divergence(hidden, head, Exact((teacher,), (teacher_head,)), zeros, ones, Rule(), vocabulary, chunk=4)[0]

    memory = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < length * vocabulary * 4  # one side's logits alone


def test_rules_are_hashable():
    assert len({Rule(), Rule(), dataclasses.replace(Rule(), beta=0.1)}) == 2


def test_the_numbers_of_trls_trainer():
    """Output matrices of ones on the diagonal make the hidden states the scores. TRL has no factor T^2."""
    told = json.loads((Path(__file__).parents[1] / "goldens" / "divergence.json").read_text())
    student, teacher, weights = (np.array(told[name], np.float32) for name in ("student", "teacher", "counted"))
    identity = jnp.eye(student.shape[-1])

    def total(hidden, rule):
        targets = jnp.zeros(weights.shape, jnp.int32)
        return token_divergence(
            hidden, identity, Exact((jnp.asarray(teacher),), (identity,)), targets, jnp.asarray(weights), rule, student.shape[-1], chunk=3
        )[0]

    for case in (each for each in told["cases"] if each["temperature"] == 1 or each["beta"] == 0.5):
        rule = Rule("jsd", case["beta"], temperature=case["temperature"])
        value, gradient = jax.value_and_grad(total)(jnp.asarray(student), rule)
        assert float(value) / rule.temperature**2 == pytest.approx(case["value"], rel=1e-5)
        np.testing.assert_allclose(np.asarray(gradient) / rule.temperature**2, case["gradient"], atol=1e-5)
