"""Frozen weights in four bits: NF4 with double quantisation, as in QLoRA (Dettmers et al. 2023, arXiv:2305.14314) and bitsandbytes.

A block of 64 weights with the same output shares an absolute maximum; each weight is one of 16 quantiles of a normal distribution times
that. With double quantisation the maxima of a matrix, less their mean, are stored in eight bits, in blocks of 256: 4.127 bits a weight
instead of 4.5. Codes, order and rounding are those of bitsandbytes 0.50, byte for byte. Two codes share a byte by our own hand: XLA
stores an int4 in a byte. Blocks end where a row of inputs ends, so that shards of whole blocks are shards of codes.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Nf4 = Literal["single", "double"]  # quantisation of the weights alone, or of their maxima, too
BLOCK, SECOND_BLOCK = 64, 256  # weights that share a maximum; maxima that share one of their own
VALUES = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
_SMALLEST = np.float32(1e-38)  # a block of zeros is divided by it


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantized:
    """A weight in NF4, maybe with a leading `layers` axis L; it was a matrix of O outputs and I inputs, both maybe several dimensions.

    Of a weight's specs or shardings it holds those of its arrays.
    """

    codes: Any  # uint8 [L, O, I / 2]: two codes a byte, the first in the high half
    maxima: Any  # float32 [L, O, I / 64]; the uint8 codes of them with double quantisation
    second: Any = None  # float32 [L, O * I / 64 / 256], rounded up: of double quantisation, the maxima's own
    mean: Any = None  # float32 [L]: of double quantisation
    inputs: tuple[int, ...] = field(default=(), metadata={"static": True})
    outputs: tuple[int, ...] = field(default=(), metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the dense weight."""
        return (*self.codes.shape[:-2], *self.inputs, *self.outputs)

    @property
    def ndim(self) -> int:
        """Of the dense weight."""
        return len(self.shape)

    def matrix(self, dtype: Any) -> jax.Array:
        """The weight in `dtype`, [L, O, I]: dequantised in float32 and rounded once."""
        *lead, outputs, half = self.codes.shape
        codes = jnp.stack([self.codes >> 4, self.codes & 15], axis=-1).reshape(*lead, outputs, -1, BLOCK)
        values = jnp.asarray(VALUES)[codes] * self._maxima()[..., None]
        return values.astype(dtype).reshape(*lead, outputs, 2 * half)

    def dense(self, dtype: Any) -> jax.Array:
        """The weight in `dtype`, in its own shape."""
        return self.matrix(dtype).swapaxes(-1, -2).reshape(self.shape)

    def _maxima(self) -> jax.Array:
        if self.second is None:
            return self.maxima
        *lead, outputs, blocks = self.maxima.shape
        each = jnp.repeat(self.second, SECOND_BLOCK, axis=-1)[..., : outputs * blocks].reshape(self.maxima.shape)
        return jnp.asarray(dynamic_map())[self.maxima] * each + self.mean.reshape(*lead, 1, 1)


def fits(inputs: int) -> bool:
    """Whether a matrix with so many inputs can be quantised: no block may hold weights of two outputs."""
    return inputs % BLOCK == 0


class Sizes(NamedTuple):
    """The shapes of the arrays of a quantised matrix [O, I], and how many bytes they have together."""

    codes: tuple[int, int]
    maxima: tuple[int, int]
    second: tuple[int]

    @classmethod
    def of(cls, outputs: int, inputs: int) -> "Sizes":
        """Those of a matrix with so many outputs and inputs."""
        assert fits(inputs), inputs
        return cls((outputs, inputs // 2), (outputs, inputs // BLOCK), (math.ceil(outputs * inputs / BLOCK / SECOND_BLOCK),))

    def bytes(self, double: bool) -> int:
        """With double quantisation, or without."""
        codes, maxima = math.prod(self.codes), math.prod(self.maxima)
        return codes + (maxima + 4 * self.second[0] + 4 if double else 4 * maxima)


@jax.custom_vjp
def product(x: jax.Array, weight: Quantized) -> jax.Array:
    """`x` [..., I] times one layer's weight: [..., O], in x's dtype. The backward pass dequantises again; nothing dense is kept for it."""
    return jnp.einsum("...i,oi->...o", x, weight.matrix(x.dtype))


def _forward(x: jax.Array, weight: Quantized) -> tuple[jax.Array, Quantized]:
    return product(x, weight), weight


def _backward(weight: Quantized, grad: jax.Array) -> tuple[jax.Array, Quantized]:
    nothing = lambda array: np.zeros(array.shape, jax.dtypes.float0) if array.dtype == jnp.uint8 else jnp.zeros_like(array)  # noqa: E731
    return jnp.einsum("...o,oi->...i", grad, weight.matrix(grad.dtype)), jax.tree.map(nothing, weight)


product.defvjp(_forward, _backward)


def quantize_matrix(weight_OI: np.ndarray, double: bool) -> Quantized:
    """A matrix [O, I], float32, in NF4; its arrays are numpy's, without a `layers` axis."""
    outputs, inputs = weight_OI.shape
    blocks = np.array(weight_OI, np.float32, order="C").reshape(outputs, inputs // BLOCK, BLOCK)
    maxima = np.abs(blocks).max(axis=-1)
    blocks *= (1 / np.maximum(maxima, _SMALLEST))[..., None]
    codes = np.zeros(blocks.shape, np.uint8)
    for middle in _middles(VALUES):  # ten times as fast as a search
        np.add(codes, blocks > middle, out=codes, casting="unsafe")
    pairs = codes.reshape(outputs, -1, 2)
    packed = pairs[..., 0] << 4 | pairs[..., 1]
    if not double:
        return Quantized(packed, maxima, inputs=(inputs,), outputs=(outputs,))
    mean = np.float32(maxima.mean(dtype=np.float64))
    flat = np.zeros(Sizes.of(outputs, inputs).second[0] * SECOND_BLOCK, np.float32)
    flat[: maxima.size] = (maxima - mean).ravel()
    seconds = flat.reshape(-1, SECOND_BLOCK)
    largest = np.abs(seconds).max(axis=-1)
    scaled = seconds * (1 / np.maximum(largest, _SMALLEST))[:, None]
    eight = np.searchsorted(_middles(dynamic_map()), scaled).astype(np.uint8).ravel()[: maxima.size]
    return Quantized(packed, eight.reshape(maxima.shape), largest, mean, (inputs,), (outputs,))


def _middles(values: np.ndarray) -> np.ndarray:
    """Between which two sorted values a number lies nearest to the first, itself included."""
    return (values[:-1] + values[1:]) / 2


@functools.cache
def dynamic_map() -> np.ndarray:
    """The 256 float32 values, sorted, of bitsandbytes' signed dynamic type: seven decades of fractions (arXiv:1511.04561)."""
    parts = [np.array([0, 1], np.float32)]
    for decade in range(7):
        # As torch.linspace rounds: from both ends to the middle, with a step in float32.
        first, last, parts_of_it = np.float32(0.1), np.float32(1), 2**decade
        step, number = np.float64((last - first) / np.float32(parts_of_it)), np.arange(parts_of_it + 1)
        edges = np.where(number < (parts_of_it + 1) // 2, first + step * number, last - step * (parts_of_it - number)).astype(np.float32)
        middles = (edges[:-1] + edges[1:]) / np.float32(2) * np.float32(10.0 ** (decade - 6))
        parts += [middles, -middles]
    return np.sort(np.concatenate(parts))
