"""Bad steps are withheld bit for bit; frozen weights stay; the average follows; nothing is copied for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import collate
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import by_name
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer import guard as guards
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.assemble import assemble
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.guard import Guard, GuardConfig
from alpaca_jax.trainer.objectives import sft
from alpaca_jax.trainer.objectives.sft import response_loss
from alpaca_jax.trainer.optimizer import OptimizerConfig
from alpaca_jax.trainer.step import accumulate
from alpaca_jax.trainer.weights import BASE, join

TINY = Architecture(vocab_size=61, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8)
FROZEN = ("embed.*", "layers.attention_norm.*")
GUARD = GuardConfig(spike=2.0, window=3)
DECAY = 0.75


class Run:
    """A tiny model with everything switched on, compiled once for all tests."""

    def __init__(self, mesh=None, devices=1, **changes):
        config = MeshConfig(**(mesh or {}))
        self.layout = Layout(make_mesh(config, jax.devices()[:devices]), config)
        settings = {"learning_rate": 1e-2, "warmup": 0.0, "weight_decay": 0.1, "moments": "bfloat16", "ema": DECAY, "frozen": FROZEN}
        optimizer = OptimizerConfig(**settings | changes)
        forward = Forward(TINY, constrain=self.layout.constrain)
        self.assembly = assemble(forward, optimizer, self.layout, sft.objective, steps=20, guard=GUARD)
        self.first, self.fixed = self.assembly.start(self.assembly.random_params(jax.random.key(0)))
        self._step = self.assembly.compile(8, 16)

    def compiled(self, state, batch):
        return self._step(state, self.fixed, batch)

    @property
    def memory(self):
        return self._step.program.memory_analysis()

    def start(self):
        return jax.tree.map(lambda leaf: leaf.copy(), self.first)

    def batch(self, weight=1.0):
        random = np.random.default_rng(0)
        made = collate([Example.answering(random.integers(0, 61, n).astype(np.int32), n // 3) for n in (9, 12, 7, 16, 8, 9, 15, 11)], 8, 16)
        made["weights"] = np.where(made["weights"] > 0, np.float32(weight), np.float32(0))
        return jax.device_put(made, self.layout.batch)

    def after(self, steps):
        state, metrics = self.start(), None
        for _ in range(steps):
            state, metrics = self.compiled(state, self.batch())
        return state, metrics


@pytest.fixture(scope="module")
def run():
    return Run()


def copy(tree):
    return jax.tree.map(np.array, tree)


def same(one, other):
    return jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), copy(one), copy(other)))


def kept(state):
    return (state.trained, state.opt_state, state.ema, state.guard)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(run):
    state, _ = run.after(2)
    before = copy(kept(state))
    after, metrics = run.compiled(state, run.batch(np.inf))
    assert bool(metrics["bad"]) and not np.isfinite(metrics["loss"])
    assert same(kept(after), before)
    assert (int(after.step), int(after.batch_index)) == (3, 3)
    _, metrics = run.compiled(after, run.batch())
    assert not bool(metrics["bad"]) and np.isfinite(metrics["loss"])


def test_a_loss_spike_is_withheld_once_the_window_is_full(run):
    low = np.full(guards.RING, 0.1, np.float32)
    for filled, bad in ((2, False), (3, True)):
        state = dataclasses.replace(run.start(), guard=jax.device_put(Guard(low, np.int32(filled)), run.assembly.state_places.guard))
        before = copy(kept(state))
        after, metrics = run.compiled(state, run.batch())
        assert bool(metrics["bad"]) == bad
        assert same(kept(after), before) == bad


@pytest.mark.parametrize("filled", [3, guards.RING + 1])
def test_a_spike_is_measured_by_the_median_of_the_last_good_losses(filled):
    losses = np.zeros(guards.RING, np.float32)
    losses[(filled - 1 - np.arange(3)) % guards.RING] = 1.0, 5.0, 5.0  # the newest first
    guard = Guard(jnp.array(losses), jnp.int32(filled))
    assert [bool(guards.is_bad(GUARD, guard, jnp.float32(loss), jnp.float32(1.0))) for loss in (9.9, 10.1)] == [False, True]


def test_good_losses_are_remembered_in_turns(run):
    state, losses = run.start(), []
    for _ in range(5):
        state, metrics = run.compiled(state, run.batch())
        losses.append(np.float32(metrics["loss"]))
    assert int(state.guard.filled) == 5 and state.guard.losses[:6].tolist() == [*losses, 0.0]
    full = Guard(jnp.zeros(guards.RING, jnp.float32), jnp.int32(2 * guards.RING + 3))
    after = guards.remember(full, jnp.float32(7.0), jnp.array(True))
    assert int(after.losses.argmax()) == 3 and int(after.filled) == 2 * guards.RING + 4
    assert same(guards.remember(full, jnp.float32(7.0), jnp.array(False)), full)


def test_a_batch_without_targets_is_no_bad_step_and_no_loss_to_remember(run):
    state, metrics = run.compiled(run.after(1)[0], run.batch(0.0))
    assert float(metrics["loss"]) == float(metrics["gradient_norm"]) == float(metrics["targets"]) == 0.0
    assert not bool(metrics["bad"]) and int(state.guard.filled) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(copy(state.trained)))


def test_a_single_target_has_a_loss_of_its_own(run):
    batch = run.batch()
    weights = np.array(batch["weights"])
    others = np.argwhere(weights)[1:]
    weights[tuple(others.T)] = 0.0
    batch["weights"] = jax.device_put(weights, run.layout.batch)
    total, targets = response_loss(Forward(TINY), join(run.start().trained, run.fixed[BASE]), batch)
    _, metrics = run.compiled(run.start(), batch)
    assert float(targets) == float(metrics["targets"]) == 1.0
    assert float(metrics["loss"]) == pytest.approx(float(total), rel=1e-6)


def test_frozen_weights_stay_bit_for_bit_and_have_no_moments(run):
    before, fixed = by_name(copy(run.start().trained)), copy(run.fixed)
    after = by_name(copy(run.after(3)[0].trained))
    assert not [name for name in before if before[name].tobytes() == after[name].tobytes()]
    assert set(by_name(fixed[BASE])) == {"embed.weight", "layers.attention_norm.scale"}
    assert same(fixed, run.fixed)  # it was not donated
    moments = optax.tree.get(run.start().opt_state, "nu")
    assert set(by_name(moments)) == set(by_name(run.start().ema)) == set(before)


def test_the_gradient_norm_is_of_what_is_trained(run):
    def everything(params):
        total, targets = response_loss(Forward(TINY), params, run.batch())
        return total / targets

    grads = by_name(jax.jit(jax.grad(everything))(join(run.start().trained, run.fixed[BASE])))
    trained = [leaf for name, leaf in grads.items() if name not in ("embed.weight", "layers.attention_norm.scale")]
    _, metrics = run.after(1)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(optax.tree.norm(trained)), rel=1e-5)
    assert float(metrics["gradient_norm"]) < 0.99 * float(optax.tree.norm(grads))


def test_the_average_follows_the_weights(run):
    first, second = copy(run.after(1)[0]), copy(run.after(2)[0])
    weights = by_name(second.trained)
    for (name, before), (_, after) in zip(by_name(first.ema).items(), by_name(second.ema).items(), strict=True):
        assert after.dtype == np.float32
        np.testing.assert_allclose(after, DECAY * before + (1 - DECAY) * weights[name], rtol=1e-6, atol=1e-8)


def test_the_state_is_donated_and_updated_in_its_own_place(run):
    state = run.start()
    leaves = jax.tree.leaves(state)
    run.compiled(state, run.batch())
    assert all(leaf.is_deleted() for leaf in leaves)
    assert run.memory.alias_size_in_bytes >= sum(leaf.nbytes for leaf in leaves)


def test_the_average_begins_as_a_copy_that_may_be_donated_beside_the_weights(run):
    places = [{leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)} for tree in (run.first.trained, run.first.ema)]
    assert not set.intersection(*places)
    assert same(run.first.trained, run.first.ema)


def test_the_state_comes_apart_and_together_again(run):
    state, _ = run.after(1)
    items = states.to_items(state)
    assert set(items) == {"params", "optimizer", "ema"}
    assert same(states.from_items(items), state)
    shapes = run.assembly.abstract_state
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


@pytest.mark.parametrize(
    ("losses", "loss", "norm", "bad"),
    [
        ([5.0, 1.0, 1.2, 9.0], 2.39, 1.0, False),  # twice the median of the last three is 2.4
        ([5.0, 1.0, 1.2, 9.0], 2.41, 1.0, True),
        ([0.1] * guards.RING + [1.0, 1.2, 9.0], 2.39, 1.0, False),
        ([0.1, 0.1], 99.0, 1.0, False),  # too few to judge by
        ([1.0, 1.2, 9.0], 1.0, np.nan, True),
        ([], np.inf, 1.0, True),
    ],
)
def test_what_is_bad(losses, loss, norm, bad):
    guard = guards.empty()
    for each in losses:
        guard = guards.remember(guard, jnp.float32(each), jnp.array(True))
    assert bool(guards.is_bad(GUARD, guard, jnp.float32(loss), jnp.float32(norm))) == bad


def test_settings_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="give more than 1"):
        GuardConfig(spike=0.5)
    with pytest.raises(ValueError, match="window=0"):
        GuardConfig(window=0)


def test_microbatches_of_bfloat16_gradients_are_summed_in_fp32():
    def gradient(params, batch):
        return (batch["weights"].sum(), batch["weights"].sum()), {"w": jnp.ones((), jnp.bfloat16)}

    batch = {"weights": jnp.ones((512, 1), jnp.float32)}
    (total, targets), grads = jax.jit(lambda batch: accumulate(gradient, {"w": jnp.zeros((), jnp.bfloat16)}, batch, 512))(batch)
    assert float(total) == float(targets) == float(grads["w"]) == 512.0  # bfloat16 would stop at 256
    assert grads["w"].dtype == jnp.float32


@pytest.mark.prove
def test_muon_with_all_of_it_on_is_the_same_on_a_mesh():
    muon = {"name": "muon", "momentum": 0.95, "moments": "float32", "frozen": (*FROZEN, "layers.attention.*")}
    mesh = {"data": 2, "fsdp": 4, "optimizer": {"embed": ("fsdp", "data")}}
    one, other = (each.after(3) for each in (Run(**muon), Run(mesh, 8, **muon)))
    assert float(one[1]["loss"]) == pytest.approx(float(other[1]["loss"]), rel=1e-5)
    for (path, expected), (_, found) in zip(by_name(copy(one[0].ema)).items(), by_name(copy(other[0].ema)).items(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=path)
    gate = {kind: tree["layers"]["mlp"]["gate"] for kind, tree in {"weights": other[0].trained, "ema": other[0].ema}.items()}
    assert {kind: leaf.addressable_shards[0].data.shape for kind, leaf in gate.items()} == {"weights": (2, 4, 24), "ema": (2, 2, 24)}
