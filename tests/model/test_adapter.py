"""Low-rank changes: what PEFT computes, gradients included; what stays zero; the masks of dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.config import parse
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import matrices, names, peft_settings, plan
from alpaca_jax.model import adapter as adapters
from alpaca_jax.model import llama
from alpaca_jax.model.adapter import Adapter, Change
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import by_name, flatten, map_with_path
from alpaca_jax.model.weight import LowRank
from tools.prove.tiny import SIZES

ARCHITECTURE = parse(Architecture, SIZES | {"tie_embeddings": False})
SPECS = llama.specs(ARCHITECTURE)
PARAMS = jax.jit(lambda key: llama.init(ARCHITECTURE, key))(jax.random.key(0))
TOKENS = np.random.default_rng(0).integers(0, ARCHITECTURE.vocab_size, (2, 12))
OUT, UP = ("layers", "attention", "out"), ("layers", "mlp", "up")
PATTERNS = {"rank_pattern": {"layers.0.mlp.up_proj": 2, "q_proj": 5}, "alpha_pattern": {"q_proj": 3.0, "layers.1.mlp.up_proj": 1.0}}
KINDS = {
    "lora": AdapterConfig(rank=4, alpha=8),
    "rslora": AdapterConfig(rank=4, alpha=8, rslora=True, targets=("q_proj", "o_proj", "up_proj"), **PATTERNS),
    "dora": AdapterConfig(rank=3, alpha=6, dora=True, targets=r".*layers\.(0\.mlp|1\.self_attn)\..*_proj"),
}


def trained(adapter, key=1):
    """The adapter's arrays, none of them as they start; what belongs to no rank stays zero."""
    first = adapters.init(adapter, SPECS, PARAMS, jax.random.key(key))
    ranks = {path: change.ranks for path, change in adapter.changes}

    def move(path, array):
        noise = 0.1 * jax.random.normal(jax.random.key(len(str(path))), array.shape)
        if path[-1] == "magnitude":
            return array + noise
        rank_axis = 1 if path[-1] == "up" else array.ndim - 1
        own = jnp.arange(array.shape[rank_axis]) < jnp.array(ranks[path[:-1]])[:, None]
        own = jnp.expand_dims(own, [axis for axis in range(1, array.ndim) if axis != rank_axis])
        return jnp.where(own, array + noise, 0.0)

    return map_with_path(move, first)


@functools.partial(jax.jit, static_argnames="remat")
def logits(params, remat="none"):
    """[B, T, V]"""
    tokens = jnp.asarray(TOKENS)
    segments, positions = jnp.ones_like(tokens), jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return llama.logits(params, llama.forward(ARCHITECTURE, params, tokens, segments, positions, remat=remat))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of PEFT's own code
@pytest.mark.parametrize("kind", KINDS)
def test_forward_gradients_and_merge_are_those_of_peft(kind):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from tools.benchmark import theirs

    config = KINDS[kind]
    adapter = plan(config, ARCHITECTURE)
    arrays = trained(adapter)
    ours = adapters.attach(PARAMS, adapter, arrays)
    settings = {key: value for key, value in peft_settings(config).items() if key not in ("lora_dropout", "inference_mode")}
    model = peft.get_peft_model(theirs.llama(ARCHITECTURE, PARAMS), peft.LoraConfig(**settings))
    known, changes = dict(model.base_model.model.named_modules()), dict(adapter.changes)
    layers = [  # (our path, layer, their module)
        (matrix.name.path, layer, known[name])
        for matrix in matrices(ARCHITECTURE)
        if matrix.name.path in changes
        for layer, name in enumerate(names(matrix))
        if changes[matrix.name.path].ranks[layer]
    ]
    assert len(layers) == sum(hasattr(module, "lora_A") for name, module in known.items() if name.endswith("_proj"))
    with torch.no_grad():
        for path, layer, module in layers:
            for parameter, value in zip(
                parameters(module, config.dora), in_their_layout(flatten(arrays), path, layer, changes), strict=True
            ):
                parameter.copy_(torch.tensor(value))
    scores = model(torch.tensor(TOKENS)).logits
    upstream = np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)
    scores.backward(torch.tensor(upstream))

    def objective(arrays):
        found = logits(adapters.attach(PARAMS, adapter, arrays))
        return (found * upstream).sum(), found

    found, own = jax.jit(jax.grad(objective, has_aux=True))(arrays)[::-1]
    assert np.allclose(scores.detach(), found, atol=1e-5)
    gradients = flatten(own)
    for path, layer, module in layers:
        for parameter, value in zip(parameters(module, config.dora), in_their_layout(gradients, path, layer, changes), strict=True):
            assert np.allclose(parameter.grad, value, rtol=1e-5, atol=1e-5 * float(parameter.grad.abs().max())), (path, layer)

    merged = model.merge_and_unload().state_dict()
    for path, layer, _ in layers:
        matrix = next(matrix for matrix in matrices(ARCHITECTURE) if matrix.name.path == path)
        value = np.asarray(flatten(adapters.merged(ours))[path][layer])
        assert np.allclose(merged[f"{names(matrix)[layer]}.weight"], matrix.name.to_theirs(value), atol=1e-6)


def parameters(module, dora):
    """A, B and, for DoRA, the magnitude of PEFT's module."""
    found = [module.lora_A["default"].weight, module.lora_B["default"].weight]
    return [*found, module.lora_magnitude_vector["default"].weight] if dora else found


def in_their_layout(arrays, path, layer, changes):
    """The same of ours, [r, inputs], [outputs, r] and [outputs]."""
    rank = changes[path].ranks[layer]
    down, up = (np.asarray(arrays[*path, name][layer]) for name in ("down", "up"))
    found = [down.reshape(-1, down.shape[-1]).T[:rank], up.reshape(up.shape[0], -1).T[:, :rank]]
    return [*found, np.asarray(arrays[*path, "magnitude"][layer]).ravel()] if (*path, "magnitude") in arrays else found


def test_starts_as_peft_does_and_changes_nothing():
    adapter = plan(KINDS["rslora"], ARCHITECTURE)
    arrays = flatten(adapters.init(adapter, SPECS, PARAMS, jax.random.key(0)))
    for path, change in adapter.changes:
        down = np.asarray(arrays[*path, "down"]).reshape(ARCHITECTURE.num_layers, -1, change.rank)
        bound = down.shape[1] ** -0.5
        assert not np.asarray(arrays[*path, "up"]).any()
        assert not np.array_equal(down[0], down[1])
        for layer, rank in enumerate(change.ranks):
            assert np.abs(down[layer]).max() <= bound
            assert down[layer, :, :rank].std() == pytest.approx(bound / 3**0.5, rel=0.35)
            assert not down[layer, :, rank:].any()
    for kind in KINDS.values():
        own = plan(kind, ARCHITECTURE)
        untrained = adapters.attach(PARAMS, own, adapters.init(own, SPECS, PARAMS, jax.random.key(0)))
        assert jnp.allclose(logits(untrained), logits(PARAMS), atol=1e-6 if kind.dora else 0)


def test_what_belongs_to_no_rank_has_no_gradient():
    adapter = Adapter(((OUT, Change((3, 1), (1.0, 2.0))), (UP, Change((0, 2), (0.0, 1.0)))), dora=True)
    gradient = jax.jit(jax.grad(lambda arrays: jnp.square(logits(adapters.attach(PARAMS, adapter, arrays))).sum()))
    gradients = flatten(jax.device_get(gradient(trained(adapter))))
    for path, change in adapter.changes:
        for layer, rank in enumerate(change.ranks):
            down, up, magnitude = (gradients[*path, name][layer] for name in ("down", "up", "magnitude"))
            assert not down[..., rank:].any()
            assert not up[rank:].any()
            assert down.any() == up.any() == magnitude.any() == (rank > 0)


def test_dropout_masks_differ_by_weight_and_layer_and_are_the_same_when_recomputed():
    adapter = plan(AdapterConfig(rank=2, targets=("o_proj", "up_proj"), dropout=0.5), ARCHITECTURE)
    arrays = trained(adapter)
    attached = adapters.attach(PARAMS, adapter, arrays, jax.random.key(5))
    leaves = [leaf for leaf in flatten(attached).values() if isinstance(leaf, LowRank)]
    keys = [tuple(each) for leaf in leaves for each in np.asarray(jax.random.key_data(leaf.key)).tolist()]
    assert len(set(keys)) == 2 * ARCHITECTURE.num_layers
    assert all(leaf.key is None for leaf in flatten(adapters.attach(PARAMS, adapter, arrays)).values() if isinstance(leaf, LowRank))

    def gradient(remat):
        loss = lambda arrays: jnp.square(logits(adapters.attach(PARAMS, adapter, arrays, jax.random.key(5)), remat)).sum()  # noqa: E731
        return by_name(jax.jit(jax.grad(loss))(arrays))

    kept, recomputed = gradient("none"), gradient("full")
    for name, value in kept.items():
        assert jnp.allclose(value, recomputed[name], rtol=1e-4, atol=1e-5 * float(jnp.abs(value).max())), name


def test_dropout_keeps_the_mean():
    leaf = LowRank(jnp.zeros((4, 4)), jnp.zeros((4, 1)), jnp.zeros((1, 4)), jnp.float32(1), key=jax.random.key(0), dropout=0.25)
    dropped = leaf.dropped(jnp.ones((100_000,)))
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert set(np.unique(dropped).tolist()) == {0.0, np.float32(4 / 3)}
