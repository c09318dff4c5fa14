"""Attention in blocks of queries against the plain masked formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.model import attention


def plain(query, key, value, visible):
    """Every query against every key; each group of query heads has its own key/value head."""
    groups = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, groups, axis=2) for x in (key, value))
    scores = jnp.einsum("bthk,bshk->bhts", query, key) / query.shape[-1] ** 0.5
    scores = jnp.where(visible[:, None], scores, jnp.finfo(jnp.float32).min)
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores, axis=-1), value)


@pytest.mark.parametrize("length", [5, 64, 65, 200, 600])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3)])
def test_blocks_give_what_the_whole_square_gives(length, heads, kv_heads):
    random = np.random.default_rng(length)
    query, key, value = (jnp.asarray(random.normal(size=(2, length, n, 8)), jnp.float32) for n in (heads, kv_heads, kv_heads))
    borders = np.sort(random.integers(0, length, (2, 3)))
    segments = 1 + (np.arange(length)[None, :, None] >= borders[:, None]).sum(-1)
    segments[:, length - length // 5 :] = 0  # empty slots at the end
    visible = attention.visible(jnp.asarray(segments, jnp.int32))

    real = segments > 0

    def loss(attend):
        def terms(*qkv):
            mixed = attend(*qkv, visible)
            return (mixed * real[:, :, None, None].astype(np.float32)).sum() ** 2, mixed

        return jax.jit(jax.value_and_grad(terms, argnums=(0, 1, 2), has_aux=True))

    ((ours, mixed), gradients), ((reference, expected), others) = (loss(attend)(query, key, value) for attend in (attention.attend, plain))
    np.testing.assert_allclose(ours, reference, rtol=1e-4)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-4), gradients, others)
    np.testing.assert_allclose(np.asarray(mixed)[real], np.asarray(expected)[real], atol=2e-6)
