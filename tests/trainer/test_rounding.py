"""Moments in bfloat16: rounded by chance they follow fp32 ones, rounded to the nearest they stand still."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer.optimizer import OptimizerConfig
from alpaca_jax.trainer.rounding import in_bfloat16, stochastically

FAMILIES = {"adamw": {}, "adafactor": {"momentum": 0.9}, "lion": {"betas": (0.9, 0.99)}, "muon": {"momentum": 0.95}}
STEPS = 200


def problem():
    """A linear map to be found from noisy batches: the first weights, and the gradient at a step."""
    keys = jax.random.split(jax.random.key(0), 2)
    goal = jax.random.normal(keys[0], (1, 24, 16))

    def gradient(weights, step):
        x_key, noise_key = jax.random.split(jax.random.fold_in(keys[1], step))
        x = jax.random.normal(x_key, (32, 24))
        wanted = x @ goal[0] + 0.3 * jax.random.normal(noise_key, (32, 16))
        loss = lambda weights: jnp.mean((x @ weights["layers"]["gate"][0] - wanted) ** 2)  # noqa: E731
        return jax.value_and_grad(loss)(weights)

    return {"layers": {"gate": jnp.full((1, 24, 16), 0.1)}}, gradient


def run(optimizer, steps=STEPS):
    """(losses, the last optimizer state) of some steps."""
    weights, gradient = problem()

    def step(carry, index):
        weights, state = carry
        loss, grads = gradient(weights, index)
        updates, state = optimizer.update(grads, state, weights)
        return (optax.apply_updates(weights, updates), state), loss

    with jax.numpy_dtype_promotion("standard"):
        (_, state), losses = jax.jit(lambda: jax.lax.scan(step, (weights, optimizer.init(weights)), jnp.arange(steps)))()
    return np.asarray(losses), state


@pytest.mark.parametrize("name", FAMILIES)
def test_two_hundred_steps_follow_those_of_fp32_moments(name):
    rate = {"adafactor": 0.1, "lion": 0.01, "muon": 0.1}.get(name, 0.02)
    losses = {}
    for moments in ("float32", "bfloat16"):
        settings = {"learning_rate": rate, "warmup": 0.0, "moments": moments} | FAMILIES[name]
        losses[moments], _ = run(optimizers.make(OptimizerConfig(name=name, **settings), STEPS))
    smooth = {moments: each.reshape(-1, 20).mean(axis=1) for moments, each in losses.items()}
    assert smooth["float32"][-1] < 0.2 * smooth["float32"][0]
    np.testing.assert_allclose(smooth["bfloat16"], smooth["float32"], rtol=0.03)


def to_nearest(inner):
    """What `moments=bfloat16` would be without chance."""
    down = lambda state: jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim else x, state)  # noqa: E731
    up = lambda state: jax.tree.map(lambda x: x.astype(jnp.float32) if x.ndim else x, state)  # noqa: E731

    def update(grads, state, params):
        updates, state = inner.update(grads, up(state), params)
        return updates, down(state)

    return optax.GradientTransformation(lambda params: down(inner.init(params)), update)


def test_rounded_to_the_nearest_a_second_moment_would_stand_still():
    """The reason for chance: the gradients shrink, and a moment that loses a thousandth a step can't follow in bfloat16."""
    adam = optax.scale_by_adam(b2=0.999)
    moment = {}
    for name, kind in {"fp32": lambda inner: inner, "chance": in_bfloat16, "nearest": to_nearest}.items():
        _, state = run(optax.chain(kind(adam), optax.scale(-0.02)), 1000)
        moment[name] = np.asarray(optax.tree.get(state, "nu")["layers"]["gate"], np.float32).mean()
    assert moment["chance"] == pytest.approx(moment["fp32"], rel=0.01)
    assert abs(moment["nearest"] / moment["fp32"] - 1) > 0.2


def test_chance_is_fair_over_the_elements_and_over_the_steps():
    share, low, high = 0.3, 1.0, 1.0 + 2**-7
    x = jnp.full((40, 500), low + share * (high - low), jnp.float32)
    seeds = jax.random.bits(jax.random.key(0), (400,), jnp.uint32)
    ups = np.asarray(jax.jit(jax.vmap(lambda seed: stochastically(x, seed)))(seeds).astype(jnp.float32))
    assert set(np.unique(ups)) == {low, high}
    ups = ups == high
    for dims, count in ((None, ups.size), ((1, 2), x.size), (0, len(seeds))):
        deviation = np.abs(ups.mean(axis=dims) - share) / np.sqrt(share * (1 - share) / count)
        assert deviation.max() < 6
    neighbours = np.corrcoef(ups[:, :, 1:].ravel(), ups[:, :, :-1].ravel())[0, 1]
    successors = np.corrcoef(ups[1:].ravel(), ups[:-1].ravel())[0, 1]
    assert abs(neighbours) < 0.01 and abs(successors) < 0.01


def test_what_bfloat16_holds_stays():
    exact = jnp.array([0.0, -0.0, 1.5, -3.0, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
    found = np.asarray(stochastically(exact, jnp.uint32(7)).astype(jnp.float32))
    assert found.tobytes() == np.asarray(exact).tobytes()


def test_chance_is_the_same_on_every_mesh():
    x = jax.random.normal(jax.random.key(0), (64, 16))
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a", "b"))
    alone = jax.jit(stochastically)(x, jnp.uint32(3))
    spread = jax.jit(stochastically, out_shardings=place)(jax.device_put(x, place), jnp.uint32(3))
    assert np.array_equal(alone, spread)
