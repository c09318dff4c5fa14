"""The weights of a model as decoding reads them: those of a run as they are, or loaded into a layout that is read faster."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.decode import sides
from alpaca_jax.decode.sides import Changed, Read, Served, Side, Sides
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import flatten, map_with_path

Params = dict[str, Any]
Besides = Mapping[Any, Side | None]  # by the name of a matrix of `Fused`, or by a weight's path in a layer


# The weights that each matrix of a `Fused` layer is made of.
JOINED = {
    "qkv": (("attention", "query"), ("attention", "key"), ("attention", "value")),
    "out": (("attention", "out"),),
    "gate_up": (("mlp", "gate"), ("mlp", "up")),
    "down": (("mlp", "down"),),
}


class Fused(NamedTuple):
    """One layer. Matrices are [outputs, inputs], and those that read the same input are one; see `Tuning.columns`."""

    attention_norm: jax.Array  # [D]
    qkv: jax.Array  # [(H + 2N) * K, D]
    out: jax.Array  # [D, H * K]
    mlp_norm: jax.Array  # [D]
    gate_up: jax.Array  # [2F, D]
    down: jax.Array  # [D, F]
    # None where the architecture has none:
    qkv_bias: jax.Array | None = None  # [(H + 2N) * K]
    out_bias: jax.Array | None = None  # [D]
    qk_norm: jax.Array | None = None  # [H + N, K]
    gate_up_bias: jax.Array | None = None  # [2F]
    down_bias: jax.Array | None = None  # [D]
    sides: Sides = Sides()  # what adapters add to the products


class Weights(NamedTuple):
    """A whole model. `layers` is one set a layer, or the run's own weights, stacked along their first axis."""

    embed_VD: jax.Array
    layers: list[Fused] | list[Params] | Params  # an adapter's changes are in them
    norm: jax.Array  # [D]
    head_VD: jax.Array  # the same array as embed_VD where the output is tied
    several: bool = False  # each sequence says which adapter it has

    def group(self, first: int, count: int) -> Any:
        """What a program over `count` layers from the layer `first` on takes; of stacked weights that is all of them."""
        return self.layers[first : first + count] if isinstance(self.layers, list) else self.layers


def of_run(params: Params) -> Weights:
    """`params` (see `model.llama`) as they are, wherever they lie, without a copy of them.

    On one CPU each layer is a view of the stack. Elsewhere a program cuts out each layer just before it uses it. While the views are there
    the weights can't be donated: let go of them before the next training step.
    """
    own = stacked(params)
    leaves = jax.tree.leaves(own.layers)
    (device, *more) = set().union(*(leaf.devices() for leaf in leaves))
    if more or device.platform != "cpu":
        return own
    view = lambda number: jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[number], device), own.layers)  # noqa: E731
    return own._replace(layers=[view(number) for number in range(len(leaves[0]))])


def stacked(params: Params) -> Weights:
    """`params`, of which a program cuts out each layer just before it uses it."""
    return Weights(params["embed"]["weight"], sides.of_run(params["layers"]), params["norm"]["scale"], llama.output_weight(params))


def unstacked(architecture: Architecture, params: Params) -> Weights:
    """The weights of each layer by themselves, cut out once. Empties `params` as it goes, so that there is no second copy."""
    whole: list[jax.Array]
    structure: Any
    whole, structure = jax.tree.flatten(params.pop("layers"))
    leaves = []
    while whole:
        leaves.append(jnp.unstack(whole.pop(0)))
    layers = [structure.unflatten([leaf[number] for leaf in leaves]) for number in range(architecture.num_layers)]
    return Weights(params["embed"]["weight"], layers, params["norm"]["scale"], llama.output_weight(params))


def fused(architecture: Architecture, read: Read, dtype: Any, threads: int = 1) -> Weights:
    """The weights in the CPU's layout and in `dtype`, read by some threads; a padded vocabulary is trimmed."""
    with ThreadPoolExecutor(threads) as pool:
        return _Fusing(architecture, read, dtype, pool).weights()


def blank(architecture: Architecture, dtype: Any) -> Weights:
    """The shapes of `fused` in as little memory as can be: zeros, and all layers are the same one."""
    specs = flatten(llama.specs(architecture))
    zeros = lambda path, index: np.broadcast_to(np.float32(0), specs[path].shape)[index]  # noqa: E731
    one: Any = fused(architecture.with_layers(1), zeros, dtype)
    return one._replace(layers=one.layers * architecture.num_layers)


def beside(architecture: Architecture, adapters: Sequence[Served], read: Read, dtype: Any, fused: bool) -> list[Besides]:
    """What adapters have beside the matrices of each layer, `fused` ones or those of a run, for `with_adapters`.

    `read` gives the base's weights, for the norms of DoRAs.
    """
    specs = flatten(llama.specs(architecture))

    def found(*names: tuple[str, ...]) -> list[Side | None]:
        paths: list[Any] = [("layers", *name) for name in names]
        outputs = [math.prod(specs[path].shape[1 + llama.MATRICES[path] :]) for path in paths]
        return sides.sides(adapters, paths, outputs, architecture.num_layers, read, dtype)

    of_run: Mapping[Any, Any] = {path[1:]: (path[1:],) for each in adapters for path, _ in each.adapter.changes}
    by_matrix = {matrix: found(*names) for matrix, names in (JOINED if fused else of_run).items()}
    return [{matrix: each[number] for matrix, each in by_matrix.items()} for number in range(architecture.num_layers)]


def with_adapters(own: Weights, besides: Sequence[Besides]) -> Weights:
    """`own` with what `beside` has found, and no copy: a sequence then names its adapter by its place from 1 on, or none by 0."""

    def changed(layer: Any, found: Besides) -> Fused | Params:
        if isinstance(layer, Fused):
            return layer._replace(sides=Sides(**found))
        return map_with_path(lambda path, leaf: Changed(leaf, side) if (side := found.get(path)) is not None else leaf, layer)

    layers: Any = [changed(layer, found) for layer, found in zip(own.layers, besides, strict=True)]
    return own._replace(layers=layers, several=True)


class _Fusing(NamedTuple):
    architecture: Architecture
    read: Read
    dtype: Any
    pool: ThreadPoolExecutor

    def weights(self) -> Weights:
        a, head_dim = self.architecture, self.architecture.head_dim
        heads = ("query", "key", "value")
        parts: dict[str, list[Any]] = {
            "attention_norm": self._layers([("attention_norm", "scale")], self._joined),
            "qkv": self._layers(JOINED["qkv"], self._rows(a.hidden_size)),
            "out": self._layers(JOINED["out"], self._rows(a.num_heads * head_dim)),
            "mlp_norm": self._layers([("mlp_norm", "scale")], self._joined),
            "gate_up": self._layers(JOINED["gate_up"], self._rows(a.hidden_size)),
            "down": self._layers(JOINED["down"], self._rows(a.intermediate_size)),
        }
        if a.qkv_bias:
            flat = lambda *biases: self._joined(*map(np.ravel, biases))  # noqa: E731
            parts["qkv_bias"] = self._layers([("attention", f"{name}_bias") for name in heads], flat)
        if a.out_bias:
            parts["out_bias"] = self._layers([("attention", "out_bias")], self._joined)
        if a.qk_norm:
            scales = lambda query, key: self._array(np.repeat(np.stack([query, key]), [a.num_heads, a.num_kv_heads], axis=0))  # noqa: E731
            parts["qk_norm"] = self._layers([("attention", f"{name}_norm", "scale") for name in heads[:2]], scales)
        if a.mlp_bias:
            parts["gate_up_bias"] = self._layers([("mlp", "gate_bias"), ("mlp", "up_bias")], self._joined)
            parts["down_bias"] = self._layers([("mlp", "down_bias")], self._joined)
        table = lambda name: self._array(self.read((name, "weight"), (slice(0, a.vocab_size), slice(0, a.hidden_size))))  # noqa: E731
        embed_VD = table("embed")
        return Weights(
            embed_VD=embed_VD,
            layers=[Fused(**{name: part[layer] for name, part in parts.items()}) for layer in range(a.num_layers)],
            norm=self._array(self.read(("norm", "scale"), (slice(0, a.hidden_size),))),
            head_VD=embed_VD if a.tie_embeddings else table("head"),
        )

    def _layers(self, paths: Sequence[tuple[str, ...]], join: Callable[..., jax.Array]) -> list[jax.Array]:
        """What `join` makes of the pieces of some weights, for each layer. One weight is read after another, as they are stored."""
        piece = lambda path, layer: self.read(("layers", *path), (slice(layer, layer + 1),))[0]  # noqa: E731
        layers = range(self.architecture.num_layers)
        # The first by itself: a source may then have all of the weight at hand.
        pieces = [[piece(path, 0), *self.pool.map(functools.partial(piece, path), layers[1:])] for path in paths]
        return list(self.pool.map(join, *pieces))

    def _rows(self, inputs: int) -> Callable[..., jax.Array]:
        """Joins matrices of the same inputs, one below the other. In most files they lie that way: `.T` is a view without a copy then."""
        return lambda *matrices: self._joined(*(matrix.reshape(inputs, -1).T for matrix in matrices))

    def _joined(self, *parts: np.ndarray) -> jax.Array:
        return self._array(np.concatenate(parts))

    def _array(self, values: np.ndarray) -> jax.Array:
        # Tied to the device, as what is computed from it and the cache will be: otherwise it would be another kind of argument, and the
        # same program compiled again.
        return jax.device_put(np.asarray(values, self.dtype), jax.local_devices()[0])
