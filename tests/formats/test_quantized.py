"""A model that is read straight into four bits, on one device and over a mesh, is the model quantised in memory."""

import dataclasses

import jax
import numpy as np
import pytest
from random_models import SIZES, byte_level, model_of, random_weights

from alpaca_jax.formats.pretrained import load_params
from alpaca_jax.model import frozen, llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.nf4 import Quantized
from alpaca_jax.model.tree import flatten, unflatten
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh

ARCHITECTURE = Architecture(**SIZES | {"intermediate_size": 128, "head_dim": 32})


@pytest.mark.parametrize("kind", ["single", "double"])
@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(data=2, tensor=2)])
def test_read_straight_into_codes(kind, mesh):
    layout = Layout(make_mesh(mesh, jax.devices()[: mesh.data * mesh.tensor]), mesh)
    weights = random_weights(ARCHITECTURE)
    largest = []
    source = model_of(weights, ARCHITECTURE, byte_level())

    def read(path, index=()):
        piece = source.read(path, index)
        largest.append((path, piece.shape))
        return piece

    place = flatten(layout.tree(frozen.specs(llama.specs(ARCHITECTURE), kind), "weights")).__getitem__
    params = flatten(load_params(dataclasses.replace(source, read=read), place=place))
    expected = flatten(frozen.quantize(unflatten(weights), kind))
    for path, weight in expected.items():
        assert isinstance(weight, Quantized) == (path in llama.MATRICES)
        for ours, theirs in zip(jax.tree.leaves(params[path]), jax.tree.leaves(weight), strict=True):
            assert np.array_equal(ours, theirs), path
        assert params[path].shape == weights[path].shape
    assert all(shape[0] == 1 for path, shape in largest if path in llama.MATRICES)  # never two layers at a time
