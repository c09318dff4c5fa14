"""Reads a weight straight into four bits: one layer's matrix at a time, so that the whole weight is never in memory."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from alpaca_jax.formats.names import Index, whole
from alpaca_jax.model import frozen, nf4
from alpaca_jax.model.nf4 import Quantized

_THREADS = 2  # each holds a layer's matrix


def load(read: Callable[[int], np.ndarray], layers: int, places: Quantized) -> Quantized:
    """The weight of `layers` layers in NF4, its arrays with the shardings in `places`; `read(layer)` gives one layer, float32.

    Each process reads every layer whole, since the second quantisation needs all of a matrix, and keeps the pieces of its own devices.
    """
    double, sizes = places.second is not None, nf4.Sizes.of(math.prod(places.outputs), math.prod(places.inputs))
    shapes: list[tuple[int, ...]] = [(layers, *shape) for shape in ((*sizes, ()) if double else sizes[:2])]
    structure: Any = jax.tree.structure(places)
    pieces: list[_Pieces] = [_Pieces(shape, place) for shape, place in zip(shapes, jax.tree.leaves(places), strict=True)]

    def one(layer: int) -> None:
        for array, part in zip(
            jax.tree.leaves(frozen.quantize_layer(read(layer), places.inputs, places.outputs, double)), pieces, strict=True
        ):
            part.put(layer, np.asarray(array))

    one(0)  # by itself: a source may then have all of the weight at hand
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(one, range(1, layers)))
    return structure.unflatten([part.array() for part in pieces])


class _Pieces:
    """The pieces of a stacked array that this process's devices hold, filled layer by layer; devices with the same piece share it."""

    def __init__(self, shape: tuple[int, ...], place: jax.sharding.Sharding):
        self.shape, self.place = shape, place
        indices = place.addressable_devices_indices_map(shape).values()
        self.keys = {self._key(index) for index in indices}
        self.buffers: dict[Any, np.ndarray] = {}

    def put(self, layer: int, values: np.ndarray) -> None:
        """Keeps what the devices hold of a layer's array."""
        for key in self.keys:
            (first, last), rest = key[0], tuple(slice(*bounds) for bounds in key[1:])
            if key not in self.buffers:
                self.buffers[key] = np.empty(tuple(stop - start for start, stop in key), values.dtype)
            if first <= layer < last:
                self.buffers[key][layer - first] = values[rest]

    def array(self) -> jax.Array:
        """The whole, on its devices."""
        return jax.make_array_from_callback(self.shape, self.place, lambda index: self.buffers[self._key(index)])

    def _key(self, index: Index | None) -> tuple[tuple[int, int], ...]:
        return tuple((part.start, part.stop) for part in whole(index or (), self.shape))
