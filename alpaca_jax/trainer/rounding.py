"""Moments stored in bfloat16, computed in fp32.

A second moment with a decay of 0.999 changes by a thousandth of itself a step, less than half of bfloat16's last place: rounded to the
nearest value it would never move. Stochastic rounding (Gupta et al. 2015, arXiv:1502.02551) goes up with the probability of the part that
is cut off, so that on average the moment moves as it would in fp32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alpaca_jax.model.tree import by_name
from alpaca_jax.trainer.weights import name_of


class Rounded(NamedTuple):
    """The updates so far (int32), which the random bits derive from, and the state of the transformation inside."""

    count: jax.Array  # type: ignore[assignment]
    inner: Any


def in_fp32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` that sees gradients and weights in fp32, whatever they are stored in, and so keeps fp32 moments."""

    def init(params: Any) -> Any:
        return inner.init(_fp32(params))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return inner.update(_fp32(grads), state, _fp32(params))

    return optax.GradientTransformation(init, update)


def in_bfloat16(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, of fp32 moments, with each moment of its weight's shape stored in bfloat16.

    The random bits are a function of the count of updates and the moment's place in the state: the same on every mesh and in every run.
    """

    def init(params: Any) -> Rounded:
        state = inner.init(params)
        stored = jax.tree.map(lambda leaf, moment: leaf.astype(jnp.bfloat16) if moment else leaf, state, _is_moment(state, params))
        return Rounded(jnp.zeros((), jnp.int32), stored)

    def update(grads: Any, state: Rounded, params: Any = None) -> tuple[Any, Rounded]:
        moments = _is_moment(state.inner, params)
        computed = jax.tree.map(lambda leaf, moment: leaf.astype(jnp.float32) if moment else leaf, state.inner, moments)
        updates, computed = inner.update(grads, computed, params)
        leaves, structure = jax.tree.flatten(computed)
        seeds = jax.random.bits(jax.random.fold_in(jax.random.key(0), state.count), (len(leaves),), jnp.uint32)
        stored = [
            stochastically(leaf, seeds[index]) if moment else leaf
            for index, (leaf, moment) in enumerate(zip(leaves, jax.tree.leaves(moments), strict=True))
        ]
        return updates, Rounded(state.count + 1, jax.tree.unflatten(structure, stored))

    return optax.GradientTransformation(init, update)


def stochastically(x: jax.Array, seed: jax.Array) -> jax.Array:
    """fp32 `x` as one of the two bfloat16 around it, each with the probability that makes `x` the mean; values that are not finite stay.

    The random bits are a hash of the uint32 `seed` and of each element's index.
    """
    bits = _mixed(_index(x.shape) ^ seed) >> 16
    cut = (jax.lax.bitcast_convert_type(x, jnp.uint32) + bits) & jnp.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(cut, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def _index(shape: tuple[int, ...]) -> jax.Array:
    """Each element's place in row-major order, modulo 2^32."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for dim in reversed(range(len(shape))):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, dim) * jnp.uint32(stride % 2**32)
        stride *= shape[dim]
    return index


def _mixed(x: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3 (Appleby, public domain): six operations where `jax.random` takes a hundred and compiles for seconds."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _is_moment(state: Any, params: Any) -> Any:
    shapes = {name: leaf.shape for name, leaf in by_name(params).items()}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: shapes.get(name_of(path)) == leaf.shape, state)


def _fp32(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
