"""Copies that are made in pieces, of matrices larger than a piece."""

import numpy as np
import pytest

from alpaca_jax.formats.dtypes import contiguous, fill, finite, numpy_dtype, widest

SHAPE = (700, 1100)  # neither a multiple of a tile


def matrix(dtype, shape=SHAPE):
    return np.random.default_rng(0).normal(size=shape).astype(numpy_dtype(dtype))


@pytest.mark.parametrize("source", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("target", ["float32", "bfloat16", "float16"])
def test_a_transposed_matrix_is_copied_whole(source, target):
    weight = matrix(source).T
    copy = np.full(weight.shape, np.nan, numpy_dtype(target))
    fill(copy, weight)
    np.testing.assert_array_equal(copy, weight.astype(copy.dtype))
    again = contiguous(weight, copy.dtype)
    assert again.flags.c_contiguous and again.dtype == copy.dtype
    np.testing.assert_array_equal(again, copy)


def test_what_lies_as_it_should_is_not_copied():
    weight = matrix("bfloat16")
    assert contiguous(weight, weight.dtype) is weight


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found(dtype, bad):
    weight = matrix(dtype)
    assert finite(weight) and finite(weight.T) and finite(weight[:, ::3])
    weight[-1, -1] = bad
    assert not finite(weight) and not finite(weight.T) and not finite(weight[:, -1:])


def test_the_dtype_of_a_mixed_model_does_not_change_from_run_to_run() -> None:
    assert widest(["float16", "bfloat16"] * 3) == "float16"
    assert widest(["bfloat16", "float16"] * 3) == "bfloat16"
    assert widest(["float16", *["bfloat16"] * 2]) == "bfloat16"
    assert widest(["float64"]) == "float32"
