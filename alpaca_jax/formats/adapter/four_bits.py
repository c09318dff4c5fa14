"""A base in four bits as a model on disk: what an adapter that was trained on it is merged into."""

import dataclasses
import functools

import numpy as np

from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, weights, whole
from alpaca_jax.model import frozen
from alpaca_jax.model.llama import MATRICES
from alpaca_jax.model.tree import Path

_INPUTS: dict[Path, int] = {**MATRICES}


def through(base: Pretrained, double: bool) -> Pretrained:
    """Returns `base` with every matrix of its layers as NF4 holds it, float32; one layer's matrix is in memory at a time."""
    known = weights(base.architecture)

    @functools.lru_cache(maxsize=1)  # callers read pieces of one layer in turn
    def layer(path: Path, number: int) -> np.ndarray:
        weight = base.read(path, (slice(number, number + 1),))[0]
        split = _INPUTS[path]
        return np.asarray(frozen.quantize_layer(weight, weight.shape[:split], weight.shape[split:], double).dense(np.float32))

    def read(path: Path, index: Index = ()) -> np.ndarray:
        if path not in _INPUTS:
            return base.read(path, index)
        layers, *rest = whole(index, known[path].shape)
        return np.stack([layer(path, number)[tuple(rest)] for number in range(layers.start, layers.stop)])

    return dataclasses.replace(base, read=read, format=f"{base.format}, in four bits (NF4)")
