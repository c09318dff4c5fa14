"""NF4: codes, scales and values as bitsandbytes makes them, and a product whose gradient is that of the dense weight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.model import frozen, llama, nf4
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import flatten
from tools.prove.tiny import SIZES

ARCHITECTURE = parse(Architecture, SIZES | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_heads": 4, "num_kv_heads": 2})
SHAPES = ((100, 64), (96, 576), (192, 1536))  # [O, I]; the maxima of the first are less than half a block of the second quantisation


def weight(shape):
    """A matrix whose rows have very different sizes; the first is zero."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal(shape) * 0.02 * generator.lognormal(size=(shape[0], 1))
    values[0] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_are_those_of_bitsandbytes(shape):
    torch, theirs = pytest.importorskip("torch"), pytest.importorskip("bitsandbytes.functional")
    given = weight(shape)
    codes, state = theirs.quantize_4bit(torch.tensor(given), blocksize=64, quant_type="nf4")
    ours = nf4.quantize_matrix(given, double=False)
    assert codes.numpy().ravel().tobytes() == ours.codes.tobytes()
    assert state.absmax.numpy().tobytes() == ours.maxima.tobytes()
    assert np.array_equal(theirs.dequantize_4bit(codes, state).numpy(), ours.matrix(jnp.float32))


@pytest.mark.parametrize("shape", SHAPES)
def test_double_quantisation_is_that_of_bitsandbytes(shape):
    torch, theirs = pytest.importorskip("torch"), pytest.importorskip("bitsandbytes.functional")
    given = weight(shape)
    codes, state = theirs.quantize_4bit(torch.tensor(given), blocksize=64, quant_type="nf4", compress_statistics=True)
    ours = nf4.quantize_matrix(given, double=True)
    assert codes.numpy().ravel().tobytes() == ours.codes.tobytes()
    assert np.array_equal(state.state2.code.numpy(), nf4.dynamic_map())
    assert float(ours.mean) == pytest.approx(float(state.offset), rel=1e-6)
    assert np.allclose(ours.second, state.state2.absmax.numpy(), rtol=1e-6)
    # Its code for float64 searches the nearest value, as its GPU kernels do; the one for float32 looks it up in a table of 65,536 places.
    maxima = torch.tensor(np.abs(given.reshape(-1, 64)).max(-1))
    exact, _ = torch.ops.bitsandbytes.quantize_blockwise.default((maxima - maxima.mean()).double(), state.state2.code, 256)
    assert np.array_equal(exact.numpy(), ours.maxima.ravel())
    state.absmax = exact
    values = theirs.dequantize_4bit(codes, state).numpy()
    assert np.allclose(
        values, ours.matrix(jnp.float32), rtol=0, atol=3e-7 * np.abs(values).max()
    )  # maxima are sums here: one rounding each


def test_bits_of_a_weight():
    sizes = nf4.Sizes.of(4096, 4096)
    assert [8 * sizes.bytes(double) / 4096**2 for double in (False, True)] == pytest.approx([4.5, 4.127], abs=1e-3)


def test_product_and_its_gradient_are_those_of_the_dense_weight():
    matrix = jax.tree.map(jnp.asarray, nf4.quantize_matrix(weight((96, 128)), double=True))
    x, up = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in ((0, (2, 3, 128)), (1, (2, 3, 96))))
    out, back = jax.vjp(lambda x: nf4.product(x, matrix), x)
    expected, theirs = jax.vjp(lambda x: x @ matrix.dense(jnp.float32), x)
    assert jnp.allclose(out, expected, atol=1e-6)
    assert jnp.allclose(back(up)[0], theirs(up)[0], atol=1e-6)


def test_specs_describe_quantised_params():
    params = llama.init(ARCHITECTURE, jax.random.key(0))
    for kind in ("single", "double"):
        described, made = frozen.specs(llama.specs(ARCHITECTURE), kind), frozen.quantize(params, kind)
        assert flatten(described).keys() == flatten(made).keys()
        is_spec = lambda leaf: isinstance(leaf, llama.WeightSpec)  # noqa: E731
        for spec, array in zip(jax.tree.leaves(described, is_leaf=is_spec), jax.tree.leaves(made), strict=True):
            assert (spec.shape, spec.dtype) == (array.shape, array.dtype)
        assert made["layers"]["attention"]["out"].shape == params["layers"]["attention"]["out"].shape
        assert made["embed"]["weight"] is params["embed"]["weight"]


def test_inputs_that_are_no_whole_blocks_are_refused():
    with pytest.raises(UserError, match=r"mlp.down has 96 inputs, and NF4 needs a multiple of 64"):
        frozen.specs(llama.specs(dataclasses.replace(ARCHITECTURE, intermediate_size=96)))
