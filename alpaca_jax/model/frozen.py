"""The base under an adapter: which weights of a model four bits hold, and what they look like then."""

import math
from typing import Any

import jax
import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.model.llama import MATRICES, Params, WeightSpec
from alpaca_jax.model.nf4 import BLOCK, Nf4, Quantized, Sizes, fits, quantize_matrix
from alpaca_jax.model.tree import Path, Tree, flatten, map_with_path, unflatten


def specs(model: Tree, nf4: Nf4 = "double") -> Tree:
    """The specs of a model with every matrix of its layers in NF4, given those without: a Quantized of WeightSpecs each.

    Embedding, head, norms and biases stay as they are. A UserError where the inputs of a matrix are no multiple of 64.
    """
    return map_with_path(lambda path, spec: _quantized(path, spec, nf4 == "double") if path in MATRICES else spec, model)


def _quantized(path: Path, spec: WeightSpec, double: bool) -> Quantized:
    count = MATRICES[path]
    layers, inputs, outputs = spec.shape[0], spec.shape[1 : 1 + count], spec.shape[1 + count :]
    if not fits(math.prod(inputs)):
        raise UserError(
            f"{'.'.join(path)} has {math.prod(inputs)} inputs, and NF4 needs a multiple of {BLOCK}: take a base of full precision"
        )
    sizes = Sizes.of(math.prod(outputs), math.prod(inputs))
    axes = (spec.axes[0], spec.axes[1 + count], spec.axes[1])
    return Quantized(
        codes=WeightSpec((layers, *sizes.codes), np.dtype(np.uint8), axes),
        maxima=WeightSpec((layers, *sizes.maxima), np.dtype(np.uint8 if double else np.float32), axes),
        second=WeightSpec((layers, *sizes.second), np.dtype(np.float32), (axes[0], "blocks")) if double else None,
        mean=WeightSpec((layers,), np.dtype(np.float32), axes[:1]) if double else None,
        inputs=inputs,
        outputs=outputs,
    )


def quantize_layer(weight: Any, inputs: tuple[int, ...], outputs: tuple[int, ...], double: bool) -> Quantized:
    """One layer's weight [*inputs, *outputs] in NF4, with numpy's arrays and without a `layers` axis."""
    matrix_OI = np.asarray(weight).reshape(math.prod(inputs), math.prod(outputs)).T
    found = quantize_matrix(matrix_OI, double)
    return Quantized(found.codes, found.maxima, found.second, found.mean, inputs, outputs)


def quantize(params: Params, nf4: Nf4 = "double") -> Params:
    """Params in memory with every matrix of the layers in NF4, on the first device: what a small model or a test starts from."""

    def change(path: Path, weight: Any) -> Any:
        if path not in MATRICES:
            return weight
        split = 1 + MATRICES[path]
        layers = [
            quantize_layer(one, one.shape[: split - 1], one.shape[split - 1 :], nf4 == "double") for one in np.asarray(weight, np.float32)
        ]
        return jax.tree.map(lambda *each: jax.numpy.asarray(np.stack(each)), *layers)

    return unflatten({path: change(path, weight) for path, weight in flatten(params).items()})
