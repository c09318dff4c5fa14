"""The table of weights: their names here, at Hugging Face, in GGUF files and at Meta, and how their layouts differ."""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from alpaca_jax.formats.dtypes import fill
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Path, flatten

Index = tuple[slice, ...]


class Name(NamedTuple):
    """One weight. `inputs`: how many of our leading axes (after `layers`) it contracts; None where the layouts are the same.

    The other formats store a linear layer as [outputs, inputs]; ours is [inputs..., outputs...], where heads and head_dim are two axes.
    `paired`: its outputs are heads that RoPE rotates; some formats interleave the two halves of each head.
    """

    path: Path
    huggingface: str
    gguf: str
    meta: str
    inputs: int | None = None
    paired: bool = False

    @property
    def stacked(self) -> bool:
        """Whether ours holds all layers, where the other formats have a tensor for each."""
        return self.path[0] == "layers"

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape in other formats of a weight (of one layer) with our `shape`."""
        if self.inputs is None:
            return shape
        rows, columns = math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])
        return (rows, columns) if self.inputs else (rows,)

    def to_theirs(self, weight: np.ndarray, interleaved: bool = False) -> np.ndarray:
        """Returns our weight (of one layer) in the layout of other formats; a view unless heads are `interleaved`."""
        if self.inputs is None:
            return weight
        theirs = weight.reshape(math.prod(weight.shape[: self.inputs]), -1).T.reshape(self.their_shape(weight.shape))
        return _swapped(theirs, (weight.shape[-2], 2, -1)) if interleaved and self.paired else theirs

    def to_ours(self, weight: np.ndarray, shape: tuple[int, ...], interleaved: bool = False) -> np.ndarray:
        """Returns their weight in our layout and `shape` (of one layer); a view unless heads are `interleaved`."""
        if self.inputs is None:
            return weight
        if interleaved and self.paired:
            weight = _swapped(weight, (shape[-2], -1, 2))
        return weight.T.reshape(shape)

    def fill(self, target: np.ndarray, weight: np.ndarray) -> None:
        """Copies a weight in our layout (of one layer, possibly a view of theirs) into `target` of the same shape."""
        if self.inputs and weight.size:
            rows = math.prod(weight.shape[: self.inputs])
            fill(target.reshape(rows, -1), weight.reshape(rows, -1))
        else:
            target[...] = weight

    def read(self, load: Callable[[Index], np.ndarray], shape: tuple[int, ...], index: Index = (), interleaved: bool = False) -> np.ndarray:
        """Returns the piece `index` of a weight (of one layer) with our `shape`; `load` reads a piece of their tensor."""
        index = whole(index, shape)
        if self.inputs is None:
            return load(index)
        inputs = _cover(shape[: self.inputs], index[: self.inputs])
        outputs = _cover(shape[self.inputs :], index[self.inputs :])
        theirs = load((outputs.flat, inputs.flat) if self.inputs else (outputs.flat,))
        return self.to_ours(theirs, (*inputs.shape, *outputs.shape), interleaved)[(*inputs.rest, *outputs.rest)]


def whole(index: Index, shape: tuple[int, ...]) -> Index:
    """Returns `index` with an explicit start and stop for each dimension of `shape`."""
    index = index + (slice(None),) * (len(shape) - len(index))
    return tuple(slice(*part.indices(size)[:2]) for part, size in zip(index, shape, strict=True))


class _Cover(NamedTuple):
    """Dimensions that are flattened in a file: the range that covers an index, its shape, and the index into it."""

    flat: slice
    shape: tuple[int, ...]
    rest: Index


def _cover(shape: tuple[int, ...], index: Index) -> _Cover:
    if not shape:
        return _Cover(slice(0, 1), (), ())
    first, inner = index[0], math.prod(shape[1:])
    flat = slice(first.start * inner, first.stop * inner)
    return _Cover(flat, (first.stop - first.start, *shape[1:]), (slice(None), *index[1:]))


def _swapped(weight: np.ndarray, heads: tuple[int, int, int]) -> np.ndarray:
    """Views the rows as [heads, 2, head_dim / 2] or [heads, head_dim / 2, 2] and exchanges the last two of these axes."""
    return weight.reshape(*heads, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


_LAYER, _BLOCK, _META = "model.layers.{layer}.", "blk.{layer}.", "layers.{layer}."


def _layer(path: str, huggingface: str, gguf: str, meta: str, inputs: int | None = None, paired: bool = False) -> Name:
    return Name(("layers", *path.split(".")), _LAYER + huggingface, _BLOCK + gguf, _META + meta, inputs, paired)


TABLE = (
    Name(("embed", "weight"), "model.embed_tokens.weight", "token_embd.weight", "tok_embeddings.weight"),
    _layer("attention_norm.scale", "input_layernorm.weight", "attn_norm.weight", "attention_norm.weight"),
    _layer("attention.query", "self_attn.q_proj.weight", "attn_q.weight", "attention.wq.weight", 1, True),
    _layer("attention.query_bias", "self_attn.q_proj.bias", "attn_q.bias", "attention.wq.bias", 0, True),
    _layer("attention.query_norm.scale", "self_attn.q_norm.weight", "attn_q_norm.weight", "attention.q_norm.weight"),
    _layer("attention.key", "self_attn.k_proj.weight", "attn_k.weight", "attention.wk.weight", 1, True),
    _layer("attention.key_bias", "self_attn.k_proj.bias", "attn_k.bias", "attention.wk.bias", 0, True),
    _layer("attention.key_norm.scale", "self_attn.k_norm.weight", "attn_k_norm.weight", "attention.k_norm.weight"),
    _layer("attention.value", "self_attn.v_proj.weight", "attn_v.weight", "attention.wv.weight", 1),
    _layer("attention.value_bias", "self_attn.v_proj.bias", "attn_v.bias", "attention.wv.bias", 0),
    _layer("attention.out", "self_attn.o_proj.weight", "attn_output.weight", "attention.wo.weight", 2),
    _layer("attention.out_bias", "self_attn.o_proj.bias", "attn_output.bias", "attention.wo.bias"),
    _layer("mlp_norm.scale", "post_attention_layernorm.weight", "ffn_norm.weight", "ffn_norm.weight"),
    _layer("mlp.gate", "mlp.gate_proj.weight", "ffn_gate.weight", "feed_forward.w1.weight", 1),
    _layer("mlp.gate_bias", "mlp.gate_proj.bias", "ffn_gate.bias", "feed_forward.w1.bias"),
    _layer("mlp.up", "mlp.up_proj.weight", "ffn_up.weight", "feed_forward.w3.weight", 1),
    _layer("mlp.up_bias", "mlp.up_proj.bias", "ffn_up.bias", "feed_forward.w3.bias"),
    _layer("mlp.down", "mlp.down_proj.weight", "ffn_down.weight", "feed_forward.w2.weight", 1),
    _layer("mlp.down_bias", "mlp.down_proj.bias", "ffn_down.bias", "feed_forward.w2.bias"),
    Name(("norm", "scale"), "model.norm.weight", "output_norm.weight", "norm.weight"),
    Name(("head", "weight"), "lm_head.weight", "output.weight", "output.weight"),
)


class Weight(NamedTuple):
    """A weight of one architecture: its names and our shape, with `layers` first where it is stacked."""

    name: Name
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Our shape of one layer, or of the whole weight where it is not stacked."""
        return self.shape[1:] if self.name.stacked else self.shape

    def tensors(self, scheme: str) -> list[tuple[str, tuple[int, ...]]]:
        """Returns (name, shape) of its tensors in `scheme` ("huggingface", "gguf" or "meta"): one, or one for each layer."""
        pattern: str = getattr(self.name, scheme)
        layers = range(self.shape[0]) if self.name.stacked else (0,)
        return [(pattern.format(layer=layer), self.name.their_shape(self.layer_shape)) for layer in layers]


@functools.lru_cache(maxsize=8)  # it is asked for at every piece that is read
def weights(architecture: Architecture) -> Mapping[Path, Weight]:
    """Returns all weights of `architecture` by our path, in the order of an export."""
    shapes = {path: tuple(spec.shape) for path, spec in flatten(llama.specs(architecture)).items()}
    known = {name.path: Weight(name, shapes.pop(name.path)) for name in TABLE if name.path in shapes}
    assert not shapes, f"weights without a name in TABLE: {sorted(shapes)}"
    return MappingProxyType(known)
