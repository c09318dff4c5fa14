"""The chunked log-probabilities of tokens against the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.trainer.tokens import token_logps


def plain(hidden, weight, targets, vocab_size, temperature):
    scores = jnp.einsum("btd,vd->btv", hidden, weight[:vocab_size]) / temperature
    return jnp.take_along_axis(jax.nn.log_softmax(scores), targets[..., None], axis=-1)[..., 0]


def drawn():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, weight = jax.random.normal(keys[0], (2, 12, 8)), jax.random.normal(keys[1], (16, 8))
    return hidden, weight, jax.random.randint(keys[2], (2, 12), 0, 11), jax.random.normal(keys[3], (2, 12))


@pytest.mark.parametrize(("chunk", "vocab_size", "temperature"), [(5, 11, 0.7), (128, 16, 1.0)])
def test_values_and_gradients_of_any_function_equal_the_plain_ones(chunk, vocab_size, temperature):
    hidden, weight, targets, cotangents = drawn()

    def loss(logps):  # not a sum over tokens: a token's gradient depends on the other tokens of its row
        return jnp.tanh((logps * cotangents).sum(axis=1)).sum() + (logps**2).mean()

    def ours(hidden, weight):
        return loss(token_logps(hidden, weight, targets, vocab_size, temperature=temperature, chunk=chunk))

    found = jax.value_and_grad(ours, argnums=(0, 1))(hidden, weight)
    expected = jax.value_and_grad(lambda h, w: loss(plain(h, w, targets, vocab_size, temperature)), argnums=(0, 1))(hidden, weight)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=3e-6), found, expected)
    np.testing.assert_allclose(ours(hidden, weight), expected[0], atol=1e-6)  # the pass without a gradient


def test_a_frozen_output_matrix_costs_no_second_product():
    hidden, weight, targets, cotangents = drawn()

    def loss(hidden, weight):
        return (token_logps(hidden, weight, targets, 16, chunk=4) * cotangents).sum()

    def loops(argnums):
        return jax.jit(jax.grad(loss, argnums)).lower(hidden, weight).compile().as_text().count(" while(")

    assert (loops((0,)), loops((0, 1))) == (1, 2)


def test_gradients_have_the_dtypes_of_what_they_are_of():
    hidden, weight, targets, cotangents = drawn()
    grads = jax.grad(lambda *both: (token_logps(*both, targets, 16) * cotangents).sum(), (0, 1))(
        hidden.astype(jnp.bfloat16), weight.astype(jnp.bfloat16)
    )
    assert [grad.dtype for grad in grads] == [jnp.bfloat16, jnp.bfloat16]
