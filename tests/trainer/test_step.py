"""The step: the same numbers on every mesh and for every split into microbatches, and its state where it should be."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import collate
from alpaca_jax.errors import UserError
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.assemble import assemble
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Objective, Terms, sft
from alpaca_jax.trainer.optimizer import OptimizerConfig
from alpaca_jax.trainer.step import make_step

TINY = Architecture(vocab_size=61, hidden_size=16, intermediate_size=40, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=4)
STORED_VOCAB = 64


def batch(rows=8, length=16):
    random = np.random.default_rng(0)
    lengths = random.integers(6, length, rows)
    return collate([Example.answering(random.integers(0, 61, n).astype(np.int32), n // 3) for n in lengths], rows, length)


def train(mesh, devices, steps=3, microbatches=1):
    """The losses of `steps` steps on one batch, and the state after them."""
    config = MeshConfig(**mesh)
    layout = Layout(make_mesh(config, jax.devices()[:devices]), config)
    forward = Forward(TINY, constrain=layout.constrain)
    optimizer = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
    assembly = assemble(forward, optimizer, layout, sft.objective, steps=10, stored_vocab=STORED_VOCAB, microbatches=microbatches)
    state, fixed = assembly.start(assembly.random_params(jax.random.key(0)))
    losses = []
    for _ in range(steps):
        state, metrics = assembly.step(state, fixed, jax.device_put(batch(), layout.batch))
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def alone():
    return train({}, 1)


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param({"data": 2, "tensor": 4}, marks=pytest.mark.prove),
        {"data": 8},
        {"data": 1, "fsdp": 8},
        {"fsdp": 2, "tensor": 2, "data": -1},
    ],
    ids=str,
)
def test_the_same_loss_on_every_mesh(alone, mesh):
    losses, _ = train(mesh, 8)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)


@pytest.mark.parametrize("parts", [2, 8])
def test_microbatches_change_nothing(alone, parts):
    losses, _ = train({}, 1, microbatches=parts)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-6)


def test_it_learns_and_counts_its_steps(alone):
    losses, state = alone
    assert losses[-1] < losses[0]
    assert int(state.step) == int(state.batch_index) == 3


def test_weights_and_moments_are_stored_in_shards():
    _, state = train({"data": 1, "fsdp": 8}, 8, steps=1)
    gate = state.trained["layers"]["mlp"]["gate"]
    assert gate.sharding.spec == jax.sharding.PartitionSpec(None, ("fsdp",), None)
    assert gate.addressable_shards[0].data.size == gate.size // 8
    mu = optax.tree.get(state.opt_state, "mu")["layers"]["mlp"]["gate"]
    assert mu.sharding.is_equivalent_to(gate.sharding, 3)


def test_moments_alone_can_be_sharded():
    rules = {"weights": {}, "optimizer": {"embed": ("data",)}, "data": 8}
    _, state = train(rules, 8, steps=1)
    assert state.trained["norm"]["scale"].sharding.is_fully_replicated
    assert optax.tree.get(state.opt_state, "nu")["norm"]["scale"].addressable_shards[0].data.shape == (2,)


def test_a_mesh_that_does_not_fit_says_how_many_devices_there_are():
    with pytest.raises(UserError, match=r"mesh.data=3.* does not fit the 8 cpu device"):
        make_mesh(MeshConfig(data=3), jax.devices()[:8])


def test_a_vocabulary_that_cannot_be_split_names_the_remedy():
    config = MeshConfig(data=1, tensor=4)
    layout = Layout(make_mesh(config, jax.devices()[:4]), config)
    with pytest.raises(UserError, match="model.vocab_multiple=4"):
        layout.tree(llama.specs(TINY), "weights")


def test_a_mesh_axis_twice_in_one_array_is_an_error():
    config = MeshConfig(data=1, fsdp=8, weights={"embed": ("fsdp",), "mlp": ("fsdp",)})
    layout = Layout(make_mesh(config, jax.devices()[:8]), config)
    with pytest.raises(UserError, match=r"\['fsdp'\] on two dimensions"):
        layout.tree(llama.specs(TINY, STORED_VOCAB), "weights")


def test_sizes_and_rules_are_checked():
    with pytest.raises(ValueError, match="only one of the axes .* may be -1 for the rest; got"):
        MeshConfig(data=-1, fsdp=-1)
    with pytest.raises(ValueError, match="the mesh axes are"):
        MeshConfig(weights={"embed": ("model",)})


def test_the_learning_rate_warms_up_and_falls_to_its_end():
    rate = optimizers.learning_rate(OptimizerConfig(learning_rate=1.0, warmup=0.1, final=0.1), 100)
    assert float(rate(0)) == 0.0
    assert float(rate(10)) == 1.0
    assert float(rate(100)) == pytest.approx(0.1)
    assert float(optimizers.learning_rate(OptimizerConfig(learning_rate=1.0, warmup=0.0), 10)(0)) == 1.0


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("steps", "warmup", "rate", "final"), [(50, 0.03, 2e-5, 0.0), (97, 0.1, 1e-2, 0.1), (33, 0.0, 3e-4, 0.0)])
def test_the_rates_are_those_of_optax(kind, steps, warmup, rate, final):
    config = OptimizerConfig(learning_rate=rate, warmup=warmup, schedule=kind, final=final)
    first = math.ceil(warmup * steps)
    decay = {
        "cosine": optax.cosine_decay_schedule(rate, steps - first, alpha=final),
        "linear": optax.linear_schedule(rate, rate * final, steps - first),
        "constant": optax.constant_schedule(rate),
    }[kind]
    constants = optax.join_schedules([optax.linear_schedule(0.0, rate, first), decay], [first]) if first else decay
    found = optimizers.learning_rate(config, steps)
    with jax.numpy_dtype_promotion("standard"):
        for step in range(steps + 2):  # bit for bit with XLA's optimizations, which tests do without
            np.testing.assert_allclose(found(step), constants(step), rtol=1e-5, atol=1e-7 * rate)


def test_a_warm_up_of_a_share_takes_whole_steps_and_the_decay_the_rest():
    rate = optimizers.learning_rate(OptimizerConfig(learning_rate=1.0, warmup=0.03, schedule="linear"), 50)  # 1.5 steps: 2
    assert [float(rate(step)) for step in (0, 1, 2, 26, 50)] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0], abs=1e-6)


def test_a_gradient_is_clipped_to_its_global_norm():
    optimizer = optimizers.make(OptimizerConfig(clip=0.5), 10)
    params = {"gate": np.zeros((2, 2), np.float32), "up": np.zeros((2, 2), np.float32)}
    gradients = jax.tree.map(lambda leaf: np.full_like(leaf, 3.0), params)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(gradients, optimizer.init(params), params)
    assert float(optax.tree.norm(optax.tree.get(state, "mu"))) == pytest.approx(0.1 * 0.5)  # 1 - the first beta


def test_an_update_is_added_in_fp32_to_a_bfloat16_weight():
    layout = Layout(make_mesh(MeshConfig(), jax.devices()[:1]), MeshConfig())
    specs = {"weight": llama.WeightSpec((1,), jnp.bfloat16, ("embed",))}
    change = 2.0**-8 * (1 + 2.0**-10)  # a little more than half the step from 1 to the next bfloat16; as a bfloat16 exactly half
    optimizer = optimizers.Optimizer(lambda _: {}, lambda _, state, weights, numbers: ({"weight": jnp.full(1, change)}, state), None)
    objective = Objective(lambda trained, fixed, batch: Terms(trained["weight"].astype(jnp.float32).sum(), jnp.float32(1)), {})
    places = states.shardings(specs, optimizer, layout)
    state = states.start({"weight": jnp.ones(1, jnp.bfloat16)}, optimizer, places)
    state, _ = make_step(objective, optimizer, layout, places, {})(state, {}, {})
    assert float(state.trained["weight"][0]) == 1 + 2.0**-7


def test_norm_scales_are_not_decayed():
    optimizer = optimizers.make(OptimizerConfig(learning_rate=1.0, weight_decay=0.5, warmup=0.0, schedule="constant"), 10)
    params = {"mlp": {"gate": np.ones((2, 2), np.float32)}, "norm": {"scale": np.ones(2, np.float32)}}
    zeros = jax.tree.map(np.zeros_like, params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["mlp"]["gate"], -0.5)
    np.testing.assert_allclose(updates["norm"]["scale"], 0.0)
