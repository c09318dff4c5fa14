"""The tensors of a checkpoint in the layout of Hugging Face, one or one a layer, read as our stacked weights."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats.names import Weight, weights
from alpaca_jax.model.architecture import Architecture

Read = Callable[[tuple[str, ...]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tensors:
    """What a file or folder holds: `shapes` by name in `scheme` ("huggingface" or "gguf"); `load` reads one of them."""

    where: Path
    scheme: str
    shapes: dict[str, tuple[int, ...]]
    load: Callable[[str], np.ndarray]

    def reader(self, architecture: Architecture) -> Read:
        """Returns what reads a weight by our path, all its layers stacked; a UserError where they are of another `architecture`."""
        known = weights(architecture)
        self._check(architecture, known)
        return lambda path: self._stacked(known[path])

    def _stacked(self, weight: Weight) -> np.ndarray:
        parts = [name for name, _ in weight.tensors(self.scheme)]
        if not weight.name.stacked:
            return weight.name.to_ours(self.load(parts[0]), weight.shape)
        stacked = None
        for layer, part in enumerate(parts):
            one = weight.name.to_ours(self.load(part), weight.shape[1:])
            if stacked is None:
                stacked = np.empty(weight.shape, one.dtype)
            stacked[layer] = one
        assert stacked is not None
        return stacked

    def _check(self, architecture: Architecture, known: dict[tuple[str, ...], Weight]) -> None:
        wanted = {name: shape for weight in known.values() for name, shape in weight.tensors(self.scheme)}
        sizes = [
            f"{name} has the shape {list(self.shapes[name])}, its header asks for {list(shape)}"
            for name, shape in wanted.items()
            if name in self.shapes and self.shapes[name] != shape
        ]
        problems = [
            *_listed("missing", [name for name in wanted if name not in self.shapes]),
            *_listed("not part of a LLaMA", [name for name in self.shapes if name not in wanted and not _ignored(name, architecture)]),
            *_listed("of another size", sizes),
        ]
        if problems:
            text = "\n  ".join(problems)
            raise UserError(
                f"{self.where} does not hold the weights its header describes:\n  {text}\nfetch it again, or give another model.source"
            )


def _ignored(name: str, architecture: Architecture) -> bool:
    # Old checkpoints store RoPE's frequencies, which follow from rope_theta; some store tied embeddings twice.
    return name.endswith("rotary_emb.inv_freq") or (architecture.tie_embeddings and name in ("lm_head.weight", "output.weight"))


def _listed(what: str, names: list[str], shown: int = 12) -> list[str]:
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return [f"{what} ({len(names)}): {', '.join(names[:shown])}{more}"] if names else []
