"""One table of what each weight is called here, in Hugging Face LLaMA checkpoints and in GGUF files, and how its layout differs."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture

Path = tuple[str, ...]


class Name(NamedTuple):
    """One weight. `inputs`: how many of our leading axes (behind `layers`) it contracts; None where the layout is the same there.

    Hugging Face stores a linear layer as [outputs, inputs]; ours is [inputs..., outputs...] with heads and head_dim as axes of their own.
    """

    path: Path
    huggingface: str
    gguf: str
    inputs: int | None = None

    @property
    def stacked(self) -> bool:
        """Whether ours holds all layers, and theirs one tensor a layer."""
        return self.path[0] == "layers"

    def to_theirs(self, weight: np.ndarray) -> np.ndarray:
        """Returns a weight of ours (of one layer) in the layout of Hugging Face; a view."""
        if self.inputs is None:
            return weight
        rows = int(np.prod(weight.shape[: self.inputs]))
        return weight.reshape(rows, -1).T

    def to_ours(self, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a weight of Hugging Face in our layout, where it has the `shape` (of one layer); a view."""
        return weight if self.inputs is None else weight.T.reshape(shape)


_LAYER, _BLOCK = "model.layers.{layer}.", "blk.{layer}."
TABLE = (
    Name(("embed", "weight"), "model.embed_tokens.weight", "token_embd.weight"),
    Name(("layers", "attention_norm", "scale"), _LAYER + "input_layernorm.weight", _BLOCK + "attn_norm.weight"),
    Name(("layers", "attention", "query"), _LAYER + "self_attn.q_proj.weight", _BLOCK + "attn_q.weight", 1),
    Name(("layers", "attention", "key"), _LAYER + "self_attn.k_proj.weight", _BLOCK + "attn_k.weight", 1),
    Name(("layers", "attention", "value"), _LAYER + "self_attn.v_proj.weight", _BLOCK + "attn_v.weight", 1),
    Name(("layers", "attention", "out"), _LAYER + "self_attn.o_proj.weight", _BLOCK + "attn_output.weight", 2),
    Name(("layers", "mlp_norm", "scale"), _LAYER + "post_attention_layernorm.weight", _BLOCK + "ffn_norm.weight"),
    Name(("layers", "mlp", "gate"), _LAYER + "mlp.gate_proj.weight", _BLOCK + "ffn_gate.weight", 1),
    Name(("layers", "mlp", "up"), _LAYER + "mlp.up_proj.weight", _BLOCK + "ffn_up.weight", 1),
    Name(("layers", "mlp", "down"), _LAYER + "mlp.down_proj.weight", _BLOCK + "ffn_down.weight", 1),
    Name(("norm", "scale"), "model.norm.weight", "output_norm.weight"),
    Name(("head", "weight"), "lm_head.weight", "output.weight"),
)


class Weight(NamedTuple):
    """A weight of one architecture: its names and our shape, `layers` first where it is stacked."""

    name: Name
    shape: tuple[int, ...]

    def tensors(self, scheme: str) -> list[tuple[str, tuple[int, ...]]]:
        """Returns their tensors of it, one or one a layer: name in `scheme` ("huggingface" or "gguf") and shape."""
        pattern: str = getattr(self.name, scheme)
        if not self.name.stacked:
            return [(pattern, self._their_shape(self.shape))]
        return [(pattern.format(layer=layer), self._their_shape(self.shape[1:])) for layer in range(self.shape[0])]

    def _their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        inputs = self.name.inputs
        return shape if inputs is None else (int(np.prod(shape[inputs:])), int(np.prod(shape[:inputs])))


def weights(architecture: Architecture) -> dict[Path, Weight]:
    """Returns every weight of `architecture` by our path, in the order of a checkpoint."""
    shapes = {path: tuple(spec.shape) for path, spec in leaves(llama.specs(architecture))}
    known = {name.path: Weight(name, shapes.pop(name.path)) for name in TABLE if name.path in shapes}
    assert not shapes, f"weights without a name in TABLE: {sorted(shapes)}"
    return known


def leaves(tree: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yields each leaf of nested params with its path."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value
