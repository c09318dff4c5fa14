"""The model by hand-sized cases: what a token may see, what packing and padding leave alone, what the declaration says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.model import flops, llama, remat, rope
from alpaca_jax.model.architecture import Architecture, stored_vocab_size
from alpaca_jax.model.norm import rms_norm

TINY = Architecture(vocab_size=61, hidden_size=16, intermediate_size=40, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: llama.init(TINY, key))(jax.random.key(0))


def row(tokens, segments=None):
    """tokens, segments, positions, each int32 [1, T]; positions restart with each segment."""
    tokens = np.asarray([tokens], np.int32)
    segments = np.ones_like(tokens) if segments is None else np.asarray([segments], np.int32)
    starts = np.concatenate([[True], segments[0, 1:] != segments[0, :-1]])
    index = np.arange(tokens.shape[1])
    return tokens, segments, (index - np.maximum.accumulate(np.where(starts, index, 0)))[None].astype(np.int32)


@jax.jit
def jitted(params, arrays):
    return llama.logits(params, llama.forward(TINY, params, *arrays), TINY.vocab_size)


def scores(params, arrays):
    return np.asarray(jitted(params, arrays))[0]


def test_each_weight_is_declared_with_its_axes_and_counted():
    specs = jax.tree.leaves(llama.specs(TINY), is_leaf=lambda leaf: isinstance(leaf, llama.WeightSpec))
    assert all(len(spec.axes) == len(spec.shape) for spec in specs)
    assert sum(int(np.prod(spec.shape)) for spec in specs) == TINY.num_parameters


def test_smollm2_has_the_published_number_of_parameters():
    sizes = dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64)
    assert Architecture(**sizes, tie_embeddings=True).num_parameters == 134_515_008


def test_init_draws_matrices_and_ones(params):
    assert np.asarray(params["norm"]["scale"]).tolist() == [1.0] * 16
    assert np.std(params["layers"]["mlp"]["gate"]) == pytest.approx(0.02, rel=0.1)


def test_a_token_sees_no_later_token(params):
    tokens = [5, 9, 2, 7, 1, 3]
    changed = [5, 9, 2, 7, 4, 4]
    assert np.array_equal(scores(params, row(tokens))[:4], scores(params, row(changed))[:4])
    assert not np.allclose(scores(params, row(tokens))[4], scores(params, row(changed))[4])


def test_no_token_of_one_segment_changes_anothers_scores(params):
    segments = [1, 1, 1, 2, 2, 2, 0, 0]
    one = scores(params, row([5, 9, 2, 7, 1, 3, 0, 0], segments))
    other = scores(params, row([8, 8, 8, 7, 1, 3, 6, 6], segments))
    assert np.array_equal(one[3:6], other[3:6])
    assert not np.allclose(one[:3], other[:3])


def test_a_packed_segment_scores_as_it_does_alone(params):
    packed = scores(params, row([5, 9, 2, 7, 1, 3], [1, 1, 1, 2, 2, 2]))
    np.testing.assert_allclose(packed[3:], scores(params, row([7, 1, 3])), atol=1e-6)


def gradient(params, policy):
    def loss(params):
        return llama.logits(params, llama.forward(TINY, params, *row([5, 9, 2, 7]), remat=policy)).var()

    return jax.jit(jax.grad(loss))(params)


def test_remat_changes_no_gradient(params):
    expected = jax.tree.leaves(gradient(params, "none"))
    for policy in remat.POLICIES:
        for one, other in zip(expected, jax.tree.leaves(gradient(params, policy)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-7)


def test_padded_vocabulary_is_trimmed_from_the_scores(params):
    padded = jax.jit(lambda key: llama.init(TINY, key, stored_vocab_size(TINY.vocab_size, 8)))(jax.random.key(1))
    assert padded["embed"]["weight"].shape == (64, 16)
    assert scores(padded, row([5, 9])).shape == (2, 61)


def test_bf16_compute_keeps_bf16_hidden_states_and_fp32_scores(params):
    hidden = llama.forward(TINY, params, *row([5, 9, 2]), compute_dtype=jnp.bfloat16)
    assert hidden.dtype == jnp.bfloat16
    assert llama.logits(params, hidden).dtype == jnp.float32


def test_rms_norm_by_hand():
    x = jnp.array([[3.0, 4.0]])
    np.testing.assert_allclose(rms_norm(x, jnp.array([1.0, 2.0]), 0.0), [[3 / 12.5**0.5, 8 / 12.5**0.5]], rtol=1e-6)


def test_rope_turns_by_the_position_and_keeps_lengths():
    x = jax.random.normal(jax.random.key(0), (1, 3, 1, 4))
    at = rope.angles(jnp.array([[0, 1, 2]]), TINY)
    turned = rope.rotate(x, at)
    np.testing.assert_allclose(turned[:, 0], x[:, 0], atol=1e-6)
    expected = x[0, 1, 0, 0] * np.cos(1.0) - x[0, 1, 0, 2] * np.sin(1.0)
    np.testing.assert_allclose(turned[0, 1, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)


def test_flops_by_hand():
    one_layer = Architecture(vocab_size=10, hidden_size=4, intermediate_size=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=2)
    linear = 2 * (4 * 2 * (2 + 1 + 1 + 2) + 3 * 4 * 8 + 10 * 4)
    assert flops.linear_flops_per_token(one_layer) == linear
    assert flops.attention_flops(one_layer, np.array([3])) == 4 * 2 * 2 * (1 + 2 + 3)
    assert flops.train_flops(one_layer, np.array([3])) == 3 * (3 * linear + 96)
    assert flops.train_flops(one_layer, np.array([3]), adapter=10) == 3 * (2 * linear + 60) + 3 * 96
    assert flops.segment_lengths(np.array([[1, 1, 2, 0], [1, 0, 0, 0]])).tolist() == [2, 1, 1]


def test_a_config_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="multiple of num_kv_heads"):
        Architecture(vocab_size=8, hidden_size=4, intermediate_size=8, num_layers=1, num_heads=3, num_kv_heads=2, head_dim=2)
