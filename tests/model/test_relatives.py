"""What relatives of LLaMA have beyond it: windows, layers without RoPE, scaled frequencies, and the rules of who may have what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.config import parse, to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.model import attention, flops, llama, rope
from alpaca_jax.model.architecture import Architecture, RopeScaling
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh

TINY = Architecture(vocab_size=62, hidden_size=16, intermediate_size=40, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=4)
QWEN3 = dataclasses.replace(TINY, family="qwen3", qk_norm=True, qkv_bias=True, out_bias=True, sliding_window=5, sliding_layers=(1, 2))
SMOLLM3 = dataclasses.replace(TINY, family="smollm3", nope_layers=(1, 3), sliding_window=4, sliding_layers=(3,))


def changed(**changes):
    return dataclasses.replace(TINY, **changes)


# --- windows ----------------------------------------------------------------------------------------------------------------------


def test_a_window_by_hand():
    seen = attention.visible(jnp.array([[1, 1, 1, 1, 2, 2]]), 2)[0].astype(int).tolist()
    assert seen == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize("window", [1, 60, 64, 150])
def test_keys_before_a_window_are_not_multiplied_and_not_missed(window):
    random = np.random.default_rng(window)
    query, key, value = (jnp.asarray(random.normal(size=(1, 200, heads, 8)), jnp.float32) for heads in (4, 2, 2))
    visible = attention.visible(jnp.ones((1, 200), jnp.int32), window)
    run = jax.jit(attention.attend, static_argnums=4)
    np.testing.assert_allclose(run(query, key, value, visible, window), run(query, key, value, visible, None), atol=1e-6)
    cost = [run.lower(query, key, value, visible, size).compile().cost_analysis()["flops"] for size in (window, None)]
    assert cost[0] < cost[1]


def test_a_row_within_the_window_runs_the_same_program():
    plain, sliding = (dataclasses.replace(QWEN3, sliding_window=window, sliding_layers=None) for window in (None, 12))
    some = dataclasses.replace(QWEN3, sliding_window=12)
    tokens = jnp.zeros((1, 12), jnp.int32)
    params = llama.init(QWEN3, jax.random.key(0))
    text = lambda a: str(jax.make_jaxpr(lambda params: llama.forward(a, params, tokens, tokens, tokens))(params))  # noqa: E731
    assert text(sliding) == text(plain) == text(some)
    assert text(QWEN3) != text(plain)


def test_pairs_inside_the_window_are_counted():
    one = dataclasses.replace(TINY, num_layers=3, family="qwen3", qk_norm=True, sliding_window=2, sliding_layers=(0, 2))
    per_pair = 4 * 4 * 4
    assert flops.attention_flops(one, np.array([4, 1])) == per_pair * ((10 + 1) + 2 * (7 + 1))


# --- RoPE -------------------------------------------------------------------------------------------------------------------------


def test_llama3_keeps_short_waves_and_stretches_long_ones():
    a = changed(head_dim=64, rope_scaling=RopeScaling(kind="llama3", factor=8.0, original_max_positions=256))
    plain, found = rope.frequencies(changed(head_dim=64)), rope.frequencies(a)
    waves = 2 * np.pi / plain
    np.testing.assert_allclose(found[waves < 64], plain[waves < 64], rtol=1e-6)
    np.testing.assert_allclose(found[waves > 256], plain[waves > 256] / 8, rtol=1e-6)
    between = (waves > 64) & (waves < 256)
    assert between.any() and np.all((found < plain)[between] & (found > plain / 8)[between])


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_scaling_by_length_reads_each_text_s_own(kind):
    factors = {"short_factor": (1.0, 1.0), "long_factor": (2.0, 3.0)} if kind == "longrope" else {}
    a = changed(rope_theta=10.0, rope_scaling=RopeScaling(kind=kind, factor=4.0, original_max_positions=4, **factors))
    positions = jnp.broadcast_to(jnp.arange(8), (2, 8))
    short, plain = rope.angles(positions, a, jnp.array([4, 8])), rope.angles(positions, changed(rope_theta=10.0))
    factor = rope.attention_factor(a.rope_scaling)
    np.testing.assert_allclose(short.cos[0], plain.cos[0] * factor, rtol=1e-6)
    assert np.abs(short.cos[1] - plain.cos[1] * factor).max() > 0.1
    np.testing.assert_array_equal(rope.angles(positions, a).cos[1], short.cos[1])
    lengths = rope.text_lengths(a, jnp.array([[1, 1, 2, 2, 2, 0]]), jnp.array([[0, 1, 0, 1, 2, 0]]))
    assert lengths.tolist() == [[2, 2, 3, 3, 3, 1]]
    assert rope.text_lengths(TINY, positions, positions) is None
    assert rope.alike(a, 3, 4) and not rope.alike(a, 4, 8) and rope.alike(TINY, 4, 8)
    assert rope.alike(a, 8, 9) == (kind == "longrope")


# --- the whole model --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "fsdp", "tensor"), [(QWEN3, 2, 2), (SMOLLM3, 1, 1)], ids=["qwen3", "smollm3"])
def test_a_mesh_and_remat_change_nothing(a, fsdp, tensor):
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + random.normal(0, 0.2, leaf.shape).astype(np.float32), llama.init(a, jax.random.key(0)))
    tokens = random.integers(0, 61, (4, 16)).astype(np.int32)
    arrays = (tokens, np.ones_like(tokens), np.broadcast_to(np.arange(16, dtype=np.int32), tokens.shape))
    batch = [jnp.asarray(x) for x in arrays]

    def loss(params, **settings):
        return llama.logits(params, llama.forward(a, params, *batch, **settings)).var()

    mesh = MeshConfig(data=1, fsdp=fsdp, tensor=tensor)
    layout = Layout(make_mesh(mesh, jax.devices()[: fsdp * tensor]), mesh)
    expected = jax.jit(jax.value_and_grad(loss))(params)
    placed = jax.device_put(params, layout.tree(llama.specs(a), "weights"))
    found = jax.jit(jax.value_and_grad(lambda params: loss(params, remat="attention", constrain=layout.constrain)))(placed)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5), found, expected)


@pytest.mark.parametrize("a", [TINY, QWEN3, SMOLLM3, dataclasses.replace(TINY, family="qwen2", qkv_bias=True)])
def test_every_weight_is_counted(a):
    specs = jax.tree.leaves(llama.specs(a), is_leaf=lambda leaf: isinstance(leaf, llama.WeightSpec))
    assert all(len(spec.axes) == len(spec.shape) for spec in specs)
    assert sum(int(np.prod(spec.shape)) for spec in specs) == a.num_parameters


def test_biases_start_at_zero_and_only_where_there_are_any():
    attention_weights = llama.init(QWEN3, jax.random.key(0))["layers"]["attention"]
    assert all(not attention_weights[f"{name}_bias"].any() for name in ("query", "key", "value", "out"))
    assert attention_weights["query_bias"].shape == (4, 4, 4) and attention_weights["key_bias"].shape == (4, 2, 4)
    assert attention_weights["out_bias"].shape == (4, 16)
    assert attention_weights["key_norm"]["scale"].tolist() == np.ones((4, 4)).tolist()
    assert set(llama.specs(TINY)["layers"]["attention"]) == {"query", "key", "value", "out"}


# --- the architecture -------------------------------------------------------------------------------------------------------------


def test_it_is_hashable_and_survives_its_own_file():
    scaled = dataclasses.replace(
        SMOLLM3, rope_scaling=RopeScaling(kind="longrope", original_max_positions=8, short_factor=(1.0, 2.0), long_factor=(3.0, 4.0))
    )
    assert parse(Architecture, to_mapping(scaled)) == scaled
    assert len({scaled, SMOLLM3, TINY, parse(Architecture, to_mapping(scaled))}) == 3
    old = list(to_mapping(TINY).items())[:11]  # before there were relatives
    assert old[-1][0] == "tie_embeddings" and parse(Architecture, dict(old)) == TINY


def test_fewer_layers_keep_their_switches():
    assert SMOLLM3.with_layers(3) == dataclasses.replace(TINY, num_layers=3, family="smollm3", nope_layers=(1,))
    assert QWEN3.with_layers(2).sliding_layers == (1,)
    all_slide = dataclasses.replace(QWEN3, sliding_layers=(0, 1))
    assert all_slide.with_layers(2).sliding_layers is None and all_slide.with_layers(2).sliding == (0, 1)
    assert TINY.with_layers(4) == TINY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": True}, "no llama has qk_norm; these settings fit family: qwen3"),
        ({"qkv_bias": True}, "a llama has both qkv_bias and out_bias, or neither; these settings fit family: qwen2"),
        ({"sliding_window": 8}, "no llama has sliding_window; these settings fit family: mistral"),
        ({"family": "mistral", "sliding_window": 8, "sliding_layers": (0,)}, "no mistral has sliding_layers; .* family: smollm3"),
        ({"family": "qwen2"}, "every qwen2 has qkv_bias: set it to true; .* family: llama or mistral or smollm3"),
        ({"family": "qwen3"}, "every qwen3 has qk_norm: set it to true"),
        ({"family": "qwen3", "qk_norm": True, "nope_layers": (0,)}, "no qwen3 has nope_layers; no other family fits"),
        ({"family": "smollm3", "nope_layers": (0, 4)}, "nope_layers .* must name layers from 0 to 3"),
        ({"family": "smollm3", "nope_layers": (1, 1)}, "each only once"),
        ({"family": "mistral", "sliding_window": 0}, "sliding_window=0: give 1 or more"),
        ({"family": "qwen3", "qk_norm": True, "sliding_layers": (1,)}, "give sliding_window too"),
        ({"rope_scaling": {"kind": "yarn", "factor": 4.0}}, "rope_scaling: yarn needs original_max_positions"),
        ({"rope_scaling": {"kind": "linear", "factor": 0.5}}, "rope_scaling.factor=0.5: give 1 or more"),
        ({"rope_scaling": {"kind": "llama3", "original_max_positions": 8, "high_freq_factor": 1.0}}, "below high_freq_factor"),
        ({"rope_scaling": {"kind": "longrope", "original_max_positions": 8}}, "needs short_factor and long_factor"),
        (
            {"rope_scaling": {"kind": "longrope", "original_max_positions": 8, "short_factor": [1.0], "long_factor": [1.0, 2.0]}},
            "a short_factor of 1 numbers and a long_factor of 2: both need 2",
        ),
    ],
)
def test_what_cannot_be_is_said_in_words(changes, message):
    with pytest.raises(UserError, match=message):
        parse(Architecture, to_mapping(TINY) | changes)
