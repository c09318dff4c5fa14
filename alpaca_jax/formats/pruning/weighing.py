"""One forward pass of a model on disk over a few texts, a layer at a time: no more than one layer's weights are in memory."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, weights
from alpaca_jax.formats.pruning.calibration import Calibration
from alpaca_jax.model import influence, llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.norm import rms_norm
from alpaca_jax.model.tree import unflatten

ROWS = 64  # of the logits that are in memory at once


class Walk:
    """The layers of a model, applied one after another to streams [B, T, D] in fp32."""

    def __init__(self, model: Pretrained, texts: Calibration, progress: Callable[[], None] = lambda: None) -> None:
        self.architecture, self._model, self._texts, self._progress = model.architecture, model, texts, progress
        # Kinds of layers that are alike share a program, whatever their numbers.
        self.kinds = [_kind(model.architecture, number) for number in range(model.architecture.num_layers)]

    def start(self) -> np.ndarray:
        """What enters the first layer."""
        return self._read(("embed", "weight"))[self._texts.tokens]

    def layer(self, number: int) -> llama.Params:
        """The fp32 weights of a layer."""
        self._progress()
        stacked = [path for path, weight in weights(self.architecture).items() if weight.name.stacked]
        return unflatten({path[1:]: self._read(path, (slice(number, number + 1),))[0] for path in stacked})

    def after(self, number: int, layer: llama.Params, x_BTD: np.ndarray) -> np.ndarray:
        """The stream after a layer."""
        texts = self._texts
        return np.asarray(_run(self.architecture, self.kinds[number], layer, x_BTD, texts.segments, texts.positions))

    def statistics(self, number: int, layer: llama.Params, x_BTD: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The stream after a layer, and what `influence.layer_statistics` says of its parts."""
        texts = self._texts
        after, found = _weigh(self.architecture, self.kinds[number], layer, x_BTD, texts.segments, texts.positions)
        return np.asarray(after), {name: np.asarray(sums, np.float64) for name, sums in found.items()}

    def losses(self, streams: Sequence[np.ndarray]) -> np.ndarray:
        """The mean cross-entropy of the response tokens after each of these streams, which left the last layer; fp64 nats."""
        scale = jnp.asarray(self._read(("norm", "scale")))
        path = ("embed", "weight") if self.architecture.tie_embeddings else ("head", "weight")
        head_VD, taken = jnp.asarray(self._read(path)), self._texts.weights > 0
        targets = self._texts.targets[taken]
        means = []
        for stream in streams:
            hidden = np.asarray(rms_norm(jnp.asarray(stream[taken]), scale, self.architecture.norm_eps))
            parts = [_nll(hidden[at : at + ROWS], head_VD, targets[at : at + ROWS]) for at in range(0, len(targets), ROWS)]
            means.append(np.concatenate(parts).mean(dtype=np.float64))
        return np.array(means)

    def _read(self, path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        return np.asarray(self._model.read(path, index), np.float32)


def streams(walk: Walk) -> list[np.ndarray]:
    """What enters each layer, and what leaves the last one: L + 1 arrays [B, T, D]."""
    found = [walk.start()]
    for number in range(walk.architecture.num_layers):
        found.append(walk.after(number, walk.layer(number), found[-1]))
    return found


def losses_without(walk: Walk, layers: Sequence[int], count: int) -> np.ndarray:
    """The loss of `layers` without `count` of them from each place on, fp64 [l - count + 1], and last that of all of them.

    All candidates walk together: each begins with the stream in front of its gap, and every layer's weights are read once.
    """
    whole, waiting, running = walk.start(), dict[int, np.ndarray](), dict[int, np.ndarray]()
    for place, number in enumerate(layers):
        if place <= len(layers) - count:
            waiting[place] = whole
        if place - count in waiting:
            running[place - count] = waiting.pop(place - count)
        layer = walk.layer(number)
        whole = walk.after(number, layer, whole)
        running = {start: walk.after(number, layer, x_BTD) for start, x_BTD in running.items()}
    ends = running | waiting  # the last candidate's gap is at the end
    return walk.losses([*(ends[start] for start in range(len(layers) - count + 1)), whole])


def one_by_one(walk: Walk, count: int) -> tuple[int, ...]:
    """The layers that are left when, `count` times, the one goes without which the loss is least (Song et al. 2024, arXiv:2402.09025)."""
    layers = list(range(walk.architecture.num_layers))
    for _ in range(count):
        layers.pop(int(losses_without(walk, layers, 1)[:-1].argmin()))
    return tuple(layers)


def widths(walk: Walk, layers: Sequence[int]) -> dict[str, np.ndarray]:
    """How much each part of the kept layers does: `heads` (of keys and values) [l, N], `neurons` [l, F], `channels` [D], fp64."""
    x_BTD, found = walk.start(), list[dict[str, np.ndarray]]()
    for number in layers:
        x_BTD, sums = walk.statistics(number, walk.layer(number), x_BTD)
        found.append(sums)
    heads = np.stack([sums["heads"] for sums in found])
    return {
        "heads": heads.reshape(len(heads), walk.architecture.num_kv_heads, -1).sum(-1),
        "neurons": np.stack([sums["neurons"] for sums in found]),
        "channels": np.sum([sums["channels"] for sums in found], axis=0),
    }


def _kind(architecture: Architecture, number: int) -> int:
    """The first layer that is like this one."""
    return next(other for other in range(number + 1) if architecture.only(other) == architecture.only(number))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(architecture: Architecture, number: int, *arguments: Any) -> jax.Array:
    return llama.run_layer(architecture, number, *arguments)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _weigh(architecture: Architecture, number: int, *arguments: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    return influence.layer_statistics(architecture, number, *arguments)


@jax.jit
def _nll(hidden_ND: jax.Array, head_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    scores_NV = jnp.einsum("nd,vd->nv", hidden_ND, head_VD)
    return jax.nn.logsumexp(scores_NV, axis=-1) - jnp.take_along_axis(scores_NV, targets_N[:, None], axis=-1)[:, 0]
