"""The policy-gradient losses against a plain fp64 implementation, an answer at a time, and against themselves packed otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import lay
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import reinforce
from alpaca_jax.trainer.objectives.reinforce import Tokens, losses
from alpaca_jax.trainer.rules import Rule

RULES = {
    "grpo": Rule(clip=(0.2, 0.2)),
    "kl": Rule(beta=0.3),
    "dapo": Rule(average="tokens", clip=(0.2, 0.28)),
    "dr_grpo": Rule(average="longest", longest=9),
    "gspo": Rule(ratio="mean", clip=(0.03, 0.04)),
    "rloo": Rule(ratio="answer", clip=(0.2, 0.2)),
}
LENGTHS = (3, 5, 1, 7, 4, 2)


def answers(seed=0):
    """(new, old, reference) log-probabilities of the tokens, and the advantage, of each answer."""
    random = np.random.default_rng(seed)
    draw = lambda n: -random.exponential(1.5, n)  # noqa: E731
    found = []
    for n in LENGTHS:
        old = draw(n)
        found.append((old + random.normal(0, 0.3, n), old, old + random.normal(0, 0.5, n), random.normal()))
    return found


def plain(rule, found):
    """The mean loss as the papers write it, in fp64, and the gradient of each answer's log-probabilities."""
    per_answer, gradients = [], []
    for new, old, reference, advantage in found:
        if rule.ratio == "token":
            ratio, slope = np.exp(new - old), np.eye(len(new)) * np.exp(new - old)
        else:
            share = 1 / len(new) if rule.ratio == "mean" else 1.0
            ratio = np.full(len(new), np.exp((new - old).sum() * share))
            slope = np.outer(ratio, np.full(len(new), share))  # d ratio[t] / d new[s]
        kept = np.clip(ratio, 1 - rule.clip[0], 1 + rule.clip[1])
        active = ratio * advantage <= kept * advantage
        ahead = reference - new
        loss = -np.minimum(ratio * advantage, kept * advantage) + rule.beta * (np.exp(ahead) - ahead - 1)
        gradient = -(active * advantage) @ slope + rule.beta * (1 - np.exp(ahead))
        per_answer.append(loss.sum())
        gradients.append(gradient)
    sizes = [len(new) for new, *_ in found]
    if rule.average == "tokens":
        return sum(per_answer) / sum(sizes), [gradient / sum(sizes) for gradient in gradients]
    by = [rule.longest] * len(sizes) if rule.average == "longest" else sizes
    count = len(sizes)
    return sum(s / n for s, n in zip(per_answer, by, strict=True)) / count, [g / n / count for g, n in zip(gradients, by, strict=True)]


def packed(found, rows, length, beta=True):
    """The same answers in rows, each after a token of its prompt, and where each lies."""
    arrays = {name: np.zeros((len(rows), length), np.float32) for name in ("logps", "old", "reference", "advantages", "weights")}
    segments, places = np.zeros((len(rows), length), np.int32), {}
    for row, numbers in enumerate(rows):
        start = 0
        for segment, number in enumerate(numbers, start=1):
            new, old, reference, advantage = found[number]
            where = slice(start + 1, start + 1 + len(new))
            segments[row, start : where.stop] = segment
            for name, value in (("logps", new), ("old", old), ("reference", reference), ("advantages", advantage), ("weights", 1.0)):
                arrays[name][row, where] = value
            places[number] = (row, where)
            start = where.stop
    arrays["logps"][arrays["weights"] == 0] = -7.0  # prompts and empty slots have log-probabilities, too
    return Tokens(**{name: jnp.asarray(value) for name, value in arrays.items()}, segments=jnp.asarray(segments)), places


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rows", [[[0, 1, 2], [3, 4, 5]], [[5], [], [3, 0], [2, 1, 4]]])
def test_losses_and_gradients_equal_the_plain_ones_however_they_are_packed(name, rows):
    rule, found = RULES[name], answers()
    tokens, places = packed(found, rows, 24)

    def mean(logps):
        total, weight, _ = losses(rule, tokens._replace(logps=logps))
        return total / weight

    value, gradient = jax.jit(jax.value_and_grad(mean))(tokens.logps)
    expected, gradients = plain(rule, found)
    assert float(value) == pytest.approx(expected, abs=1e-5)
    for number, (row, where) in places.items():
        np.testing.assert_allclose(gradient[row, where], gradients[number], atol=1e-5)
    assert not np.any(np.asarray(gradient)[np.asarray(tokens.weights) == 0])


def test_an_answer_that_does_not_count_changes_nothing():
    found = answers()
    tokens, places = packed(found, [[0, 1, 2, 3, 4, 5]], 48)
    row, where = places[3]
    without = tokens._replace(weights=tokens.weights.at[row, where].set(0.0))
    for rule in RULES.values():
        total, weight, _ = losses(rule, without)
        expected, _ = plain(rule, [one for number, one in enumerate(found) if number != 3])
        assert float(total / weight) == pytest.approx(expected, abs=1e-5)


TINY = Architecture(vocab_size=61, hidden_size=16, intermediate_size=40, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4)


def test_without_old_log_probabilities_the_gradient_is_the_policy_gradient():
    random = np.random.default_rng(0)
    examples = []
    for n, advantage in zip((5, 9, 3), (1.0, -0.5, 2.0), strict=True):
        more = {"advantages": np.full(n, advantage, np.float32), "sampled": np.zeros(n, np.float32)}
        examples.append(Example(random.integers(0, 61, n).astype(np.int32), np.arange(n) >= 2, tokens=more))
    laid = lay([examples[:2], examples[2:]], 2, 16) | {reinforce.FIGURES: np.array([[[3.0, 4.0]], [[1.0, 4.0]]], np.float32)}
    batch = {name: jnp.asarray(array) for name, array in laid.items()}
    params = jax.jit(lambda key: llama.init(TINY, key))(jax.random.key(0))
    own = reinforce.objective(Forward(TINY), Rule(average="tokens", temperature=0.7), reports=("reward",))
    assert own.metrics == ("loss", "tokens", "clipped", "reward")

    def found(params):
        terms = own.terms(params, {}, batch)
        return terms.total / terms.weight, terms

    def expected(params):
        logits = llama.logits(params, Forward(TINY).hidden(params, batch), 61) / 0.7
        logps = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][..., None], -1)[..., 0]
        return -(logps * batch["advantages"] * batch["weights"]).sum() / batch["weights"].sum()

    (value, terms), gradient = jax.jit(jax.value_and_grad(found, has_aux=True))(params)
    other = jax.jit(jax.grad(expected))(params)
    mean = (batch["advantages"] * batch["weights"]).sum() / batch["weights"].sum()
    assert float(value) == pytest.approx(-float(mean), rel=1e-6)
    assert [float(part) for part in terms.extra["reward"]] == [4.0, 8.0]
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
