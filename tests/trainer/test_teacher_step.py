"""A step with a teacher: the teacher's weights are an argument that stays as it is."""

import re

import jax
import jax.numpy as jnp

from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer.assemble import assemble
from alpaca_jax.trainer.divergence import Rule
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import distill
from alpaca_jax.trainer.optimizer import OptimizerConfig

STUDENT = Architecture(vocab_size=64, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16)
TEACHER = Architecture(vocab_size=64, hidden_size=128, intermediate_size=512, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=32)


def test_the_teacher_is_neither_embedded_nor_donated():
    mesh = MeshConfig(data=1)
    layout = Layout(make_mesh(mesh, jax.devices()[:1]), mesh)
    telling = distill.live({"large": Forward(TEACHER, jnp.float32, "none", layout.constrain)}, (1.0,))
    factory = lambda forward: distill.objective(forward, telling, Rule(), STUDENT.vocab_size)  # noqa: E731
    forward = Forward(STUDENT, jnp.float32, "full", layout.constrain)
    made = assemble(forward, OptimizerConfig(), layout, factory, steps=10, others={distill.TEACHERS: {"large": llama.specs(TEACHER)}})
    lowered = made.lower(1, 16)
    text = lowered.as_text()
    assert max(map(len, re.findall(r"dense<[^>]*>", text)), default=0) < 10_000  # the teacher has megabytes
    assert len(re.findall(r"(?:tf.aliasing_output|jax.buffer_donor)", text)) == len(jax.tree.leaves(made.abstract_state))
    memory = lowered.compile().memory_analysis()
    teacher = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made.abstract_fixed[distill.TEACHERS]))
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made.abstract_state))
    assert memory.argument_size_in_bytes >= teacher > 10 * memory.alias_size_in_bytes
    assert memory.alias_size_in_bytes <= state
