"""A step with an adapter: its base is an argument that stays as it is, and no dense copy of four bits is kept."""

import functools
import re

import jax
import jax.numpy as jnp

from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import plan
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import by_name
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer.assemble import assemble
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import sft
from alpaca_jax.trainer.optimizer import OptimizerConfig
from alpaca_jax.trainer.weights import ADAPTER, BASE

# Layers whose weights are far larger than the activations of a few tokens.
DEEP = Architecture(vocab_size=64, hidden_size=128, intermediate_size=512, num_layers=12, num_heads=4, num_kv_heads=4, head_dim=32)
ROWS, LENGTH = 1, 16


def assembly(nf4=None, **sizes):
    mesh = MeshConfig(data=1, **sizes)
    layout = Layout(make_mesh(mesh, jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor]), mesh)
    forward = Forward(DEEP, jnp.float32, "full", layout.constrain, plan(AdapterConfig(rank=2), DEEP))
    return assemble(forward, OptimizerConfig(), layout, sft.objective, steps=10, nf4=nf4)


@functools.cache
def compiled(nf4=None):
    return assembly(nf4).compile(ROWS, LENGTH).program


def size(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_the_base_is_neither_embedded_nor_donated():
    made = assembly("double")
    text = made.lower(ROWS, LENGTH).as_text()
    assert max(map(len, re.findall(r"dense<[^>]*>", text))) < 10_000  # the tables of NF4 and the scales alone; the base has megabytes
    donated = re.findall(r"(?:tf.aliasing_output|jax.buffer_donor)", text)
    assert len(donated) == len(jax.tree.leaves(made.abstract_state))
    memory = compiled("double").memory_analysis()
    assert memory.argument_size_in_bytes >= size(made.abstract_fixed)
    assert memory.alias_size_in_bytes <= size(made.abstract_state)


def test_no_dense_copy_of_four_bits_is_kept():
    dense = size(assembly().abstract_fixed[BASE]["layers"])
    four_bits = size(assembly("double").abstract_fixed[BASE]["layers"])
    assert four_bits < dense / 7  # float32: 32 bits against 4.13
    memory = compiled("double").memory_analysis()
    assert memory.temp_size_in_bytes < dense / 4  # of 12 layers; one layer's weights, twice its widest matrix, and activations
    assert memory.temp_size_in_bytes > 0


def test_the_state_holds_the_adapter_alone():
    state = assembly("double").abstract_state
    assert set(state.trained) == {ADAPTER}
    assert {name.rpartition(".")[2] for name in by_name(state.trained)} == {"down", "up"}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.trained)} == {jnp.dtype(jnp.float32)}


def test_codes_are_sharded_in_whole_blocks():
    base = assembly("double", fsdp=2, tensor=2).abstract_fixed[BASE]["layers"]
    down = base["mlp"]["down"]  # inputs over tensor, outputs over fsdp
    assert down.codes.sharding.shard_shape(down.codes.shape) == (12, 64, 128)
    assert down.maxima.sharding.shard_shape(down.maxima.shape) == (12, 64, 4)
    query = base["attention"]["query"]
    assert query.codes.sharding.shard_shape(query.codes.shape) == (12, 64, 32)
