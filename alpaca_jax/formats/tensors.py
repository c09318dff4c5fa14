"""Reads the tensors of another project's checkpoint, often one for each layer, as pieces of our stacked weights."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats.names import Index, Weight, weights, whole
from alpaca_jax.model.architecture import Architecture

LISTED, LONGEST = 20, 160  # names in an error, and characters of a name
VOCABULARY = (("embed", "weight"), ("head", "weight"))


class Read(Protocol):
    """Returns a weight by our path in its stored dtype with all layers stacked, or the piece `index` of it."""

    def __call__(self, path: tuple[str, ...], index: Index = ()) -> np.ndarray: ...


def held(params: Mapping[tuple[str, ...], np.ndarray]) -> Read:
    """Returns a reader of weights in memory."""

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        return params[path][index]

    return read


class StoredTensor(Protocol):
    """The header of a tensor, known before it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str:
        """Its name: bfloat16, Q8_0, ..."""

    @property
    def nbytes(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of a file or folder by their names in `scheme` ("huggingface", "gguf" or "meta"); `load(name, index)` reads a piece.

    `interleaved`: the rows of queries and keys interleave the two halves of a head that RoPE rotates together.
    """

    where: Path
    scheme: str
    stored: Mapping[str, StoredTensor]
    load: Callable[[str, Index], np.ndarray]
    interleaved: bool = False

    def reader(self, architecture: Architecture) -> Read:
        """Returns a reader by our paths; a UserError names every tensor that is missing, unknown or of another size."""
        known = weights(architecture)
        self._check(architecture, known)

        def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
            return self._piece(known[path], whole(index, known[path].shape))

        return read

    def notes(self, architecture: Architecture) -> tuple[str, ...]:
        """Returns in words what is left out of the file on purpose."""
        notes = []
        for path in VOCABULARY:
            if (weight := weights(architecture).get(path)) is not None:
                name = weight.tensors(self.scheme)[0][0]
                rows = self.stored[name].shape[0]
                if rows > architecture.vocab_size:
                    notes.append(f"{name} has {rows:,} rows, {rows - architecture.vocab_size:,} of them padding, which is left out")
        if architecture.tie_embeddings and (second := self._second_table()) is not None:
            notes.append(f"{second} is stored beside the embedding that it is tied to, and left out")
        return tuple(notes)

    def _piece(self, weight: Weight, index: Index) -> np.ndarray:
        name, shape = weight.name, weight.layer_shape
        parts = [part for part, _ in weight.tensors(self.scheme)]
        if not name.stacked:
            return name.read(lambda theirs: self.load(parts[0], theirs), shape, index, self.interleaved)
        stacked = None
        chosen = parts[index[0]]
        for layer, part in enumerate(chosen):
            one = name.read(lambda theirs, part=part: self.load(part, theirs), shape, index[1:], self.interleaved)  # type: ignore[misc]
            if len(chosen) == 1:
                return one[None]
            if stacked is None:
                stacked = np.empty((len(chosen), *one.shape), one.dtype)
            name.fill(stacked[layer], one)
        assert stacked is not None, index
        return stacked

    def _second_table(self) -> str | None:
        """The name of an output table that is stored although the output is tied to the embedding."""
        return next((name for name in ("lm_head.weight", "output.weight") if name in self.stored), None)

    def _check(self, architecture: Architecture, known: Mapping[tuple[str, ...], Weight]) -> None:
        wanted = {name: (shape, path in VOCABULARY) for path, weight in known.items() for name, shape in weight.tensors(self.scheme)}
        sizes = [
            f"{name} has the shape {list(self.stored[name].shape)}, the configuration needs {list(shape)}"
            for name, (shape, padded) in wanted.items()
            if name in self.stored and not _fits(self.stored[name].shape, shape, padded)
        ]
        unknown = [name for name in self.stored if name not in wanted and not self._ignored(name, architecture)]
        problems = [
            *_block("missing", abbreviated(name for name in wanted if name not in self.stored)),
            *_block(f"not part of a {architecture.family} model of these sizes", abbreviated(unknown)),
            *_block("of another size", sizes),
        ]
        if problems:
            text = "\n  ".join(problems)
            raise UserError(
                f"{self.where} does not hold the weights its configuration describes:\n  {text}\n"
                "download it again, or give another model.source"
            )

    def _ignored(self, name: str, architecture: Architecture) -> bool:
        # Old checkpoints store RoPE's frequencies, which rope_theta determines; some store tied embeddings twice.
        frequencies = name.endswith(("rotary_emb.inv_freq", "rope.freqs")) or name == "rope_freqs.weight"
        return frequencies or (architecture.tie_embeddings and name == self._second_table())


def abbreviated(names: Iterable[str]) -> list[str]:
    """Returns names of tensors, those that differ only in their layer as one: `blk.{0-2,7}.attn_q.weight`."""
    layers: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"\.(\d+)\.", name)
        pattern = name if number is None else f"{name[: number.start(1)]}{{}}{name[number.end(1) :]}"
        layers.setdefault(pattern, []).extend([] if number is None else [int(number[1])])
    return [pattern.format(_ranges(numbers)) if numbers else pattern for pattern, numbers in layers.items()]


def shortened(names: list[str]) -> list[str]:
    """Returns the names for an error: the first LISTED of them, and how many more there are."""
    shown = [name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..." for name in names[:LISTED]]
    return shown if len(names) <= LISTED else [*shown, f"and {len(names) - LISTED:,} more"]


def listed(names: list[str]) -> str:
    """Returns the names for an error, in one line."""
    return ", ".join(shortened(names))


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return text if len(numbers) == 1 else f"{{{text}}}"


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...], padded: bool) -> bool:
    """Whether a tensor has the wanted shape; a `padded` one may have more rows, which pad the vocabulary."""
    return shape == wanted or (padded and len(shape) == len(wanted) and shape[0] > wanted[0] and shape[1:] == wanted[1:])


def _block(what: str, names: list[str]) -> list[str]:
    return [f"{what}:\n    " + "\n    ".join(shortened(names))] if names else []
