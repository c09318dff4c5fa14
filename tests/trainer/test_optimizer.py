"""The four families: each layer's matrix on its own, no decay on norm scales, every state in its place on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alpaca_jax.model.llama import WeightSpec
from alpaca_jax.model.tree import by_name, unflatten
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.optimizer import OptimizerConfig
from alpaca_jax.trainer.weights import name_of

FAMILIES = {"adamw": {}, "adafactor": {"momentum": 0.9}, "lion": {"betas": (0.9, 0.99)}, "muon": {"momentum": 0.95}}
L, D, H, K, F, V = 2, 128, 2, 64, 160, 144
AXES = {
    "embed.weight": {"vocab": V, "embed": D},
    "layers.attention.query": {"layers": L, "embed": D, "heads": H, "head_dim": K},
    "layers.attention.out": {"layers": L, "heads": H, "head_dim": K, "embed": D},
    "layers.mlp.gate": {"layers": L, "embed": D, "mlp": F},
    "layers.mlp_norm.scale": {"layers": L, "embed": D},
    "norm.scale": {"embed": D},
}


def tree(leaf):
    """The weights of a small model as a nested dict, each what `leaf(path, axes)` says."""
    return unflatten({tuple(path.split(".")): leaf(path, axes) for path, axes in AXES.items()})


SPECS = tree(lambda _, axes: WeightSpec(tuple(axes.values()), jnp.float32, tuple(axes)))


def draw(seed):
    """Random values whose layers differ in size a hundredfold, so that what mixes layers shows."""
    random = np.random.default_rng(seed)

    def leaf(path, axes):
        values = random.normal(0, 0.02, tuple(axes.values()))
        if path.startswith("layers"):
            values *= np.array([1.0, 100.0]).reshape(L, *[1] * (values.ndim - 1))
        return jnp.asarray(values, jnp.float32)

    return tree(leaf)


def config(name, **changes):
    settings = {"learning_rate": 0.1, "schedule": "constant", "warmup": 0.0, "clip": None} | FAMILIES[name] | changes
    return OptimizerConfig(name=name, **settings)


def updates_of(optimizer, params, steps=2):
    """The updates of the last of some steps at the same weights."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for seed in range(1, steps + 1):
        updates, state = update(draw(seed), state, params)
    return updates


def matrices(params):
    """Each layer's weights under their own name, heads and head_dim as one dimension."""
    flat = {}
    for name, leaf in by_name(params).items():
        shape = {"layers.attention.query": (L, D, H * K), "layers.attention.out": (L, H * K, D)}.get(name, leaf.shape)
        for layer in range(L) if name.startswith("layers") else [None]:
            flat[f"{name} {layer}"] = leaf if layer is None else leaf.reshape(shape)[layer]
    return flat


class Alone:
    """A reference optimizer of optax, which sees each layer's matrices as weights of their own."""

    def __init__(self, inner):
        self.init = lambda params: inner.init(matrices(params))
        self.inner = inner

    def update(self, grads, state, params):
        with jax.numpy_dtype_promotion("standard"):
            return self.inner.update(matrices(grads), state, matrices(params))


def test_muon_orthogonalises_each_layer_alone():
    params = draw(0)
    muon = Alone(optax.contrib.muon(0.1, beta=0.95, consistent_rms=0.2))
    found = matrices(updates_of(optimizers.make(config("muon"), 10), params))
    expected, rest = updates_of(muon, params), updates_of(Alone(optax.adamw(0.1, weight_decay=0.0)), params)
    for name, update in found.items():
        is_matrix = name.startswith("layers") and "scale" not in name
        np.testing.assert_allclose(update, (expected if is_matrix else rest)[name], atol=2e-5, err_msg=name)
    # A direction whose singular values are all near one, times the learning rate and AdamW's root mean square.
    values = np.linalg.svd(found["layers.mlp.gate 1"] / (0.1 * 0.2 * F**0.5), compute_uv=False)
    assert values.min() > 0.3 and values.max() < 1.3


def test_adafactor_factors_and_scales_each_layer_alone():
    params = draw(0)
    optimizer = optimizers.make(config("adafactor", momentum=None), 10)
    expected = updates_of(Alone(optax.adafactor(0.1)), params)
    for name, update in matrices(updates_of(optimizer, params)).items():
        np.testing.assert_allclose(update, expected[name], rtol=1e-4, atol=1e-7, err_msg=name)
    matrix = [leaf for leaf in jax.tree.leaves(optimizer.init(params)) if leaf.size >= D * F]
    assert not matrix  # rows and columns, and nothing of a matrix's size


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_adamw_and_lion_are_optax_s_own(name):
    params = draw(0)
    reference = {"adamw": optax.adamw(0.1, weight_decay=0.0), "lion": optax.lion(0.1, weight_decay=0.0)}[name]
    expected = updates_of(Alone(reference), params)
    for path, update in matrices(updates_of(optimizers.make(config(name), 10), params)).items():
        np.testing.assert_allclose(update, expected[path], rtol=1e-5, atol=1e-7, err_msg=path)


@pytest.mark.parametrize("name", FAMILIES)
def test_decay_is_the_learning_rate_times_the_weight_and_never_of_a_norm_scale(name):
    params = draw(0)
    with_decay, without = (updates_of(optimizers.make(config(name, weight_decay=decay), 10), params) for decay in (0.5, 0.0))
    for path, found in by_name(jax.tree.map(jnp.subtract, with_decay, without)).items():
        leaf = by_name(params)[path]
        expected = 0 * leaf if path.endswith("scale") else -0.1 * 0.5 * leaf
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_state_has_its_place_and_the_mesh_changes_no_update(name, moments):
    mesh = MeshConfig(data=1, fsdp=4, tensor=2)
    optimizer = optimizers.make(config(name, moments=moments), 10)
    updates = []
    for settings, devices in ((MeshConfig(), 1), (mesh, 8)):
        layout = Layout(make_mesh(settings, jax.devices()[:devices]), settings)
        places = states.shardings(SPECS, optimizer, layout)
        params, grads = (jax.device_put(draw(seed), places.trained) for seed in (0, 1))
        state = states.start(params, optimizer, places).opt_state
        step = jax.jit(optimizer.update, out_shardings=(None, places.opt_state))
        updates.append(jax.tree.map(np.asarray, step(grads, step(grads, state, params)[1], params)[0]))
    # A difference in the last place may turn the rounding of a moment, which is a 256th of it.
    tolerance = {"float32": 1e-3, "bfloat16": 1e-2}[moments]
    for path, found in by_name(updates[1]).items():
        np.testing.assert_allclose(found, by_name(updates[0])[path], rtol=tolerance, atol=1e-5, err_msg=path)
    moments_there = 0
    for (path, leaf), place in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(places.opt_state), strict=True):
        of_weight = leaf.shape == tuple(AXES.get(name_of(path), {"": 0}).values())
        moments_there += of_weight
        assert leaf.sharding == place
        assert place.is_fully_replicated != of_weight
        assert not of_weight or leaf.dtype == moments
    assert moments_there >= len(AXES)


def test_bfloat16_weights_have_float32_moments():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), draw(0))
    state = optimizers.make(config("adamw"), 10).init(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "muon"}, "give momentum=0.95"),
        ({"name": "lion", "momentum": 0.9}, "momentum is read by muon and adafactor; lion has betas"),
        ({"ema": 1.0}, "ema=1.0: give more than 0 and less than 1"),
        ({"betas": (0.9, 1.0)}, "betas=1.0: give 0 or more and less than 1"),
        ({"warmup": 1.0}, "warmup=1.0: give 0 or more and less than 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_yaml_of_each_family_is_a_config(name):
    import yaml

    from alpaca_jax.config import directory, parse

    found = parse(OptimizerConfig, yaml.safe_load((directory() / "optimizer" / f"{name}.yaml").read_text()))
    assert found.name == name
    assert optimizers.make(found, 10).init(draw(0))
