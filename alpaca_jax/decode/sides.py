"""Low-rank changes as decoding reads them: beside the matrices that they change, those of several adapters side by side.

With the columns of all adapters' A next to each other, and the rows of their B, one product reads any of them: of the K values in between,
a row keeps those of its own adapter (Chen et al. 2023, arXiv:2310.18547, gather instead, which pays with hundreds of adapters).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.model import nf4
from alpaca_jax.model.adapter import Adapter
from alpaca_jax.model.nf4 import Quantized
from alpaca_jax.model.tree import Path, Tree, flatten
from alpaca_jax.model.weight import LowRank, as_matrix

Read = Callable[[Path, tuple[slice, ...]], np.ndarray]  # gives a piece of one of the stacked weights of `model.llama`


class Side(NamedTuple):
    """The changes of one matrix [I, O]; K is the sum of their ranks. Each array may have a leading `layers` axis."""

    down: jax.Array  # A: [I, K]
    up: jax.Array  # B, times the scale: [K, O]
    owner: jax.Array | None = None  # int32 [K]: the adapter that each belongs to; None: all rows have the same one
    factor: jax.Array | None = None  # DoRA's factor of the product, by adapter: [1 + adapters, O]; [1, O] without an owner


class Sides(NamedTuple):
    """What is beside the joined matrices of one layer; see `weights.Fused`."""

    qkv: Side | None = None
    out: Side | None = None
    gate_up: Side | None = None
    down: Side | None = None


class Changed(NamedTuple):
    """A weight as a run has it, and what is beside it."""

    base: Any  # [*inputs, *outputs], an array or another one of `model.weight`
    side: Side


def product(weight: Any, x_MI: jax.Array, inputs: int, which_M: jax.Array | None) -> jax.Array:
    """The product [M, O] with a layer's weight, whose first `inputs` dimensions are summed over; `which_M`: each row's adapter."""
    if isinstance(weight, Changed):
        return beside(weight.side, x_MI, product(weight.base, x_MI, inputs, None), which_M)
    if isinstance(weight, Quantized):
        return nf4.product(x_MI, as_matrix(weight, inputs))
    return x_MI @ as_matrix(weight.astype(x_MI.dtype), inputs)


def beside(side: Side | None, x_MI: jax.Array, out_MO: jax.Array, which_M: jax.Array | None) -> jax.Array:
    """The base's product `out_MO` with each row's change of it."""
    if side is None:
        return out_MO
    narrow_MK = x_MI @ side.down.astype(x_MI.dtype)
    if side.owner is not None:
        assert which_M is not None
        narrow_MK = jnp.where(side.owner == which_M[:, None], narrow_MK, 0)
    out_MO = out_MO + narrow_MK @ side.up.astype(x_MI.dtype)
    if side.factor is None:
        return out_MO
    factor = side.factor.astype(x_MI.dtype)
    return out_MO * (factor if which_M is None or side.owner is None else factor[which_M])


def of_run(layers: Tree) -> Tree:
    """A run's stacked layers with each `LowRank` weight as a `Changed` one: the base as it is, its change as small arrays of their own."""
    changed = lambda leaf: Changed(leaf.base, _side(leaf)) if isinstance(leaf, LowRank) else leaf  # noqa: E731
    return jax.tree.map(changed, layers, is_leaf=lambda leaf: isinstance(leaf, LowRank))


@jax.jit
def _side(weight: LowRank) -> Side:
    layers, rank = weight.scale.shape[0], weight.down.shape[-1]
    up = weight.up.reshape(layers, rank, -1) * weight.scale[:, None, None]
    factor = None
    if weight.magnitude is not None:  # a layer at a time: a dense copy of all would be as large as the model
        factor = jax.lax.map(lambda layer: layer.factor(), weight).reshape(layers, 1, -1)
    return Side(weight.down.reshape(layers, -1, rank), up, factor=factor)


class Served(NamedTuple):
    """An adapter that is decoded beside others: its plan and its arrays, stacked over layers (see `model.adapter`)."""

    adapter: Adapter
    arrays: Tree


def sides(
    adapters: Sequence[Served], weights: Sequence[Path], outputs: Sequence[int], layers: int, read: Read, dtype: Any
) -> list[Side | None]:
    """What is beside a matrix in each layer, for all adapters: number 1 is the first of them.

    The matrix is made of `weights`, which read the same input and have so many `outputs`, next to each other. `read` is asked for the base
    where an adapter is a DoRA, whose norms need it.
    """
    parts = [(number, place, each) for number, own in enumerate(adapters, 1) for place, each in enumerate(_parts(own, weights)) if each]
    if not parts:
        return [None] * layers
    starts = [0, *itertools.accumulate(outputs)]
    return [_joined(parts, starts, layer, len(adapters), weights, read, dtype) for layer in range(layers)]


class _Part(NamedTuple):
    """The change of one weight by one adapter."""

    down: np.ndarray  # [L, *inputs, R]
    up: np.ndarray  # [L, R, *outputs]
    scales: tuple[float, ...]
    magnitude: np.ndarray | None  # [L, *outputs]


def _parts(own: Served, weights: Sequence[Path]) -> list[_Part | None]:
    changes, arrays = dict(own.adapter.changes), flatten(own.arrays)

    def part(path: Path) -> _Part | None:
        if path not in changes:
            return None
        found: Mapping[str, np.ndarray] = {name: arrays[*path, name] for name in ("down", "up", "magnitude") if (*path, name) in arrays}
        return _Part(found["down"], found["up"], changes[path].scales, found.get("magnitude"))

    return [part(path) for path in weights]


def _joined(
    parts: Sequence[tuple[int, int, _Part]],
    starts: Sequence[int],
    layer: int,
    adapters: int,
    weights: Sequence[Path],
    read: Read,
    dtype: Any,
) -> Side:
    downs: list[np.ndarray] = []
    ups: list[np.ndarray] = []
    owners: list[int] = []
    factor = np.ones((1 + adapters, starts[-1]), np.float32)
    for number, place, part in parts:
        rank, columns = part.down.shape[-1], slice(starts[place], starts[place + 1])
        down = np.asarray(part.down[layer], np.float32).reshape(-1, rank)
        up = np.asarray(part.up[layer], np.float32).reshape(rank, -1) * np.float32(part.scales[layer])
        wide = np.zeros((rank, starts[-1]), np.float32)
        wide[:, columns] = up
        downs.append(down)
        ups.append(wide)
        owners += [number] * rank
        if part.magnitude is not None and part.scales[layer]:
            base = np.asarray(read(weights[place], (slice(layer, layer + 1),)), np.float32).reshape(down.shape[0], -1)
            factor[number, columns] = np.ravel(part.magnitude[layer]) / np.linalg.norm(base + down @ up, axis=0)
    device = jax.local_devices()[0]
    array = lambda values: jax.device_put(np.asarray(values, dtype), device)  # noqa: E731
    owner = jax.device_put(np.array(owners, np.int32), device)
    doras = any(part.magnitude is not None for *_, part in parts)
    return Side(array(np.concatenate(downs, 1)), array(np.concatenate(ups)), owner, array(factor) if doras else None)
