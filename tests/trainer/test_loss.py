"""The chunked loss against the plain one, and packed rows against the same examples alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import collate
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.loss import summed_cross_entropy
from alpaca_jax.trainer.objectives.sft import response_loss

TINY = Architecture(vocab_size=61, hidden_size=16, intermediate_size=40, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4)


def plain(hidden, weight, targets, weights, vocab_size):
    scores = jnp.einsum("btd,vd->btv", hidden, weight[:vocab_size])
    return (optax.softmax_cross_entropy_with_integer_labels(scores, targets) * weights).sum()


@pytest.mark.parametrize("chunk", [1, 4, 5, 128])
@pytest.mark.parametrize("vocab_size", [11, 16])
def test_chunked_loss_and_gradients_equal_the_plain_ones(chunk, vocab_size):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, weight = jax.random.normal(keys[0], (2, 12, 8)), jax.random.normal(keys[1], (16, 8))
    targets = jax.random.randint(keys[2], (2, 12), 0, vocab_size)
    weights = (jax.random.uniform(keys[3], (2, 12)) > 0.4).astype(jnp.float32)

    def ours(hidden, weight):
        return 3 * summed_cross_entropy(hidden, weight, targets, weights, vocab_size, chunk)

    found, grads = jax.value_and_grad(ours, argnums=(0, 1))(hidden, weight)
    expected, expected_grads = jax.value_and_grad(lambda h, w: 3 * plain(h, w, targets, weights, vocab_size), argnums=(0, 1))(
        hidden, weight
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(ours(hidden, weight), expected, rtol=1e-6)
    for one, other in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_gradients_have_the_dtypes_of_what_they_are_of():
    hidden, weight = jnp.ones((2, 12, 8), jnp.bfloat16), jnp.ones((16, 8), jnp.bfloat16)
    targets, weights = jnp.zeros((2, 12), jnp.int32), jnp.ones((2, 12))
    total, (of_hidden, of_weight) = jax.value_and_grad(lambda *both: summed_cross_entropy(*both, targets, weights, 16, 4), (0, 1))(
        hidden, weight
    )
    assert (total.dtype, of_hidden.dtype, of_weight.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)


def test_packed_rows_have_the_loss_of_the_same_examples_alone():
    params = jax.jit(lambda key: llama.init(TINY, key))(jax.random.key(0))
    random = np.random.default_rng(0)
    examples = [Example.answering(random.integers(0, 61, n).astype(np.int32), max(1, n // 3)) for n in (5, 9, 3, 14, 7, 2)]
    loss = jax.jit(lambda params, batch: response_loss(Forward(TINY), params, batch))
    packed, targets = loss(params, collate(examples, 3, 16))
    alone = [loss(params, collate([example], 1, 16)) for example in examples]
    assert float(targets) == sum(float(count) for _, count in alone) == sum(int(e.learnt.sum()) for e in examples)
    assert float(packed) == pytest.approx(sum(float(total) for total, _ in alone), rel=1e-5)
