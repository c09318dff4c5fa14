"""Biases and the scales of QK-norm are vectors to every family of optimizers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.model import llama
from alpaca_jax.model.tree import by_name
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer.optimizer import OptimizerConfig

FAMILIES = {"adamw": {}, "adafactor": {"momentum": 0.9}, "lion": {"betas": (0.9, 0.99)}, "muon": {"momentum": 0.95}}
VECTORS = {f"layers.attention.{name}" for name in ("query_bias", "key_bias", "value_bias", "out_bias")}
VECTORS |= {f"layers.attention.{name}_norm.scale" for name in ("query", "key")}


@pytest.fixture
def params(tiny_architecture):
    architecture = dataclasses.replace(tiny_architecture, family="qwen3", qk_norm=True, qkv_bias=True, out_bias=True)
    return jax.tree.map(lambda leaf: leaf + 0.1, llama.init(architecture, jax.random.key(0)))


def updates(params, **settings):
    settings = {"learning_rate": 0.1, "schedule": "constant", "warmup": 0.0, "clip": None} | settings
    optimizer = optimizers.make(OptimizerConfig(**settings), 10)
    grads = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), params)
    return by_name(jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_no_decay_of_vectors(params, name):
    decayed, plain = (updates(params, name=name, weight_decay=decay, **FAMILIES[name]) for decay in (0.5, 0.0))
    for path, weight in by_name(params).items():
        expected = 0 * weight if path.endswith("scale") or path in VECTORS else -0.1 * 0.5 * weight
        np.testing.assert_allclose(decayed[path] - plain[path], expected, atol=1e-5, err_msg=path)
    assert set(decayed) >= VECTORS


def test_muon_leaves_vectors_to_adam(params):
    muon, adam = updates(params, name="muon", momentum=0.95), updates(params, name="adamw")
    for path in VECTORS:
        np.testing.assert_allclose(muon[path], adam[path], rtol=1e-5, err_msg=path)
    assert not np.allclose(muon["layers.attention.query"], adam["layers.attention.query"])
