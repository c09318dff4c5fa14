"""The table of names: it covers every weight, and its layouts go both ways."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.formats import names
from alpaca_jax.model.architecture import Architecture

sizes = st.builds(
    lambda groups, kv, head_dim, **rest: Architecture(num_heads=groups * kv, num_kv_heads=kv, head_dim=2 * head_dim, **rest),
    groups=st.integers(1, 3),
    kv=st.integers(1, 3),
    head_dim=st.integers(1, 4),
    vocab_size=st.integers(2, 20),
    hidden_size=st.integers(1, 12),
    intermediate_size=st.integers(1, 12),
    num_layers=st.integers(1, 3),
    tie_embeddings=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(sizes)
def test_every_weight_goes_there_and_back(architecture: Architecture) -> None:
    known = names.weights(architecture)
    assert (("head", "weight") in known) != architecture.tie_embeddings
    for scheme in ("huggingface", "gguf"):
        tensors = [name for weight in known.values() for name, _ in weight.tensors(scheme)]
        assert len(tensors) == len(set(tensors))
    total = 0
    for weight in known.values():
        shape = weight.shape[1:] if weight.name.stacked else weight.shape
        ours = np.random.default_rng(0).normal(size=shape)
        theirs = weight.name.to_theirs(ours)
        assert theirs.shape == weight.tensors("huggingface")[0][1]
        np.testing.assert_array_equal(weight.name.to_ours(theirs, shape), ours)
        total += int(np.prod(weight.shape))
    assert total == architecture.num_parameters


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("layers", "attention", "query"), "model.layers.1.self_attn.q_proj.weight"),
        (("layers", "mlp", "down"), "model.layers.1.mlp.down_proj.weight"),
    ],
)
def test_names_of_transformers(path: names.Path, expected: str, tiny_architecture: Architecture) -> None:
    assert names.weights(tiny_architecture)[path].tensors("huggingface")[1][0] == expected
