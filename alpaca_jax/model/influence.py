"""How much the layers, heads, neurons and channels of a model do, from its activations on a few texts: pure functions of arrays.

Layers are compared through the residual stream: `streams[l]` is what enters layer l, and the last one is what leaves the last layer.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, Float

from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.norm import rms_norm


def angular_distances(streams: Sequence[np.ndarray], count: int) -> np.ndarray:
    """The mean angle, in shares of pi, by which `count` layers from each layer on turn the residual stream, fp64 [L - count + 1].

    `streams` are L + 1 arrays [N, D] of N tokens. The block of layers with the smallest angle is the one that can best be left out
    (Gromov et al. 2024, arXiv:2403.17887, who average over the last token of each text; here it is over all of them).
    """
    starts = range(len(streams) - count)
    return np.array([np.arccos(np.clip(_cosines(streams[l], streams[l + count]), -1, 1)).mean() / np.pi for l in starts])  # noqa: E741


def block_influences(streams: Sequence[np.ndarray]) -> np.ndarray:
    """1 - the mean cosine between what enters each layer and what leaves it, fp64 [L] (Men et al. 2024, arXiv:2403.03853)."""
    return np.array([1 - _cosines(before, after).mean() for before, after in itertools.pairwise(streams)])


def without(layers: int, start: int, count: int) -> tuple[int, ...]:
    """The numbers of the layers that are left without the `count` from `start` on."""
    return tuple(layer for layer in range(layers) if not start <= layer < start + count)


def layer_statistics(
    architecture: Architecture,
    number: int,
    layer: llama.Params,
    x_BTD: Float[Array, "B T D"],
    segments_BT: jax.Array,
    positions_BT: jax.Array,
) -> tuple[Float[Array, "B T D"], dict[str, jax.Array]]:
    """The stream after layer `number`, and what its parts do, summed over tokens (fp32).

    `heads` [H] and `neurons` [F]: the squared length of what each adds to the stream: its activation times the length of its row of the
    output matrix (the activation statistics of Muralidharan et al. 2024, arXiv:2407.14679, with the matrix as in Sun et al. 2023,
    arXiv:2306.11695). `channels` [D]: the absolute value of the normed input of the layer.
    """
    run = named(lambda x_BTD: llama.run_layer(architecture, number, layer, x_BTD, segments_BT, positions_BT), ("mixed", "gate", "up"))
    after_BTD, seen = run(x_BTD)
    real_BT = (segments_BT > 0).astype(jnp.float32)
    added_BTHD = jnp.einsum("bthk,hkd->bthd", seen["mixed"].astype(jnp.float32), layer["attention"]["out"].astype(jnp.float32))
    hidden_BTF = (jax.nn.silu(seen["gate"]) * seen["up"]).astype(jnp.float32)
    lengths_F = jnp.square(layer["mlp"]["down"].astype(jnp.float32)).sum(1)
    normed_BTD = rms_norm(x_BTD, layer["attention_norm"]["scale"], architecture.norm_eps)
    return after_BTD, {
        "heads": jnp.einsum("bthd,bt->h", jnp.square(added_BTHD), real_BT),
        "neurons": jnp.einsum("btf,bt->f", jnp.square(hidden_BTF), real_BT) * lengths_F,
        "channels": jnp.einsum("btd,bt->d", jnp.abs(normed_BTD).astype(jnp.float32), real_BT),
    }


def largest(values: np.ndarray, count: int) -> tuple[int, ...]:
    """The places of the `count` largest values, in order."""
    return tuple(sorted(np.argsort(-values, kind="stable")[:count].tolist()))


def named(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """`function`, which also returns the arrays that `checkpoint_name` names inside it: what a module computes on its way."""

    def call(*arguments: Any) -> tuple[Any, dict[str, jax.Array]]:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        jaxpr = closed.jaxpr
        found = {equation.params["name"]: equation.outvars[0] for equation in jaxpr.eqns if equation.primitive.name == "name"}
        assert found.keys() >= set(names), (found, names)
        outputs, info = [*jaxpr.outvars, *(found[name] for name in names)], jaxpr.debug_info._replace(result_paths=None)
        results = jaxpr_as_fun(closed.replace(jaxpr=jaxpr.replace(outvars=outputs, debug_info=info)))(*jax.tree.leaves(arguments))
        own = len(jaxpr.outvars)
        return jax.tree.unflatten(jax.tree.structure(shape), results[:own]), dict(zip(names, results[own:], strict=True))

    return call


def _cosines(one_ND: np.ndarray, other_ND: np.ndarray) -> np.ndarray:
    one, other = np.float64(one_ND), np.float64(other_ND)
    return (one * other).sum(-1) / np.maximum(np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1), 1e-30)
