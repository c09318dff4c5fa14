"""A step is put together and compiled from shapes alone, on a mesh of devices that hold nothing."""

import math

import jax
import jax.numpy as jnp
import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import by_name
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer.assemble import assemble
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.guard import GuardConfig
from alpaca_jax.trainer.objectives import sft
from alpaca_jax.trainer.optimizer import OptimizerConfig
from alpaca_jax.trainer.weights import BASE

TINY = Architecture(vocab_size=61, hidden_size=16, intermediate_size=40, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=4)
FROZEN = ("embed.*",)


def assembly(frozen=FROZEN, steps=10, optimizer=None, **changes):
    mesh = MeshConfig(data=2, fsdp=2)
    layout = Layout(make_mesh(mesh, jax.devices()[:4]), mesh)
    forward = Forward(TINY, jnp.bfloat16, "full", layout.constrain)
    config = OptimizerConfig(frozen=frozen, ema=0.9, **optimizer or {})
    return assemble(forward, config, layout, sft.objective, steps=steps, stored_vocab=64, **changes)


def test_it_is_compiled_without_weights_data_or_arrays():
    before = len(jax.live_arrays())
    made = assembly(guard=GuardConfig(spike=2.0, window=3))
    compiled = made.compile(8, 16)
    assert len(jax.live_arrays()) == before
    memory = compiled.program.memory_analysis()
    arguments = jax.tree.leaves((made.abstract_state, made.abstract_fixed, made.abstract_batch(8, 16)))
    numbers = memory.argument_size_in_bytes - sum(shard_bytes(leaf) for leaf in arguments)
    assert 0 < numbers <= 4 * len(jax.tree.leaves(made.step.abstract_numbers))  # JAX leaves out those that the schedule doesn't read


def shard_bytes(leaf):
    """What one device holds of an argument."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def test_the_state_holds_what_is_trained_and_fixed_the_rest():
    made = assembly()
    trained = set(by_name(made.abstract_state.trained))
    fixed = set(by_name(made.abstract_fixed[BASE]))
    assert fixed == {"embed.weight"} and trained | fixed == set(by_name(made.specs)) and not trained & fixed
    assert set(by_name(made.abstract_state.ema)) == trained
    assert made.abstract_fixed[BASE]["embed"]["weight"].sharding.spec == jax.sharding.PartitionSpec(None, ("fsdp",))


def test_a_pattern_that_matches_no_weight_is_named():
    with pytest.raises(UserError, match="optimizer.frozen: embedding.* matches no weight"):
        assembly(frozen=("embedding.*",))


def test_a_sweep_of_rates_is_one_program():
    """The persistent cache goes by the program's text, so equal texts are compiled once."""
    one = assembly(optimizer={"weight_decay": 0.1, "clip": 0.5})
    changed = {"learning_rate": 1e-3, "warmup": 0.3, "final": 0.1, "clip": 0.25, "weight_decay": 0.01}
    assert one.lower(8, 16).as_text() == assembly(optimizer=changed, steps=1000).lower(8, 16).as_text()
