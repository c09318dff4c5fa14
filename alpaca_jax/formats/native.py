"""Our own training folder: `model/` (architecture and tokenizer) beside `checkpoints/`."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alpaca_jax import checkpoint
from alpaca_jax.config import parse, to_mapping
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError
from alpaca_jax.formats.names import leaves, weights
from alpaca_jax.formats.tensors import Read
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import read_json, write_json

FILE = "architecture.json"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training folder, its newest checkpoint read at the first `read`; `files` are those of that checkpoint."""

    architecture: Architecture
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    read: Read
    files: tuple[Path, ...]
    origin: str | None


def write(
    folder: str | os.PathLike[str],
    architecture: Architecture,
    tokenizer: Tokenizer,
    eos_ids: Sequence[int] = (),
    source: str | None = None,
) -> None:
    """Writes what a training run's `train/model/` holds: the sizes, the tokenizer with its chat template, the source it started from."""
    folder = Path(folder)
    tokenizer.save(folder)
    ids = [int(id) for id in eos_ids] or [tokenizer.eos_id]
    write_json(folder / FILE, {"architecture": to_mapping(architecture), "eos_ids": ids, "source": source})


def find(path: Path) -> Path | None:
    """Returns the training folder that `path` is, or (a run's folder) has as `train/`; None where there is none."""
    return next((folder for folder in (path, path / "train") if (folder / "model" / FILE).is_file()), None)


def open(folder: Path, item: str = "params") -> Trained:
    """Returns the newest checkpoint of the training folder `folder`, its params or their average (`ema`).

    A UserError where there is none or its parts don't fit together.
    """
    content = read_json(folder / "model" / FILE)
    if not isinstance(content, dict) or "architecture" not in content:
        raise UserError(f"{folder / 'model' / FILE} was not written by a training run: its key `architecture` is lacking")
    architecture = parse(Architecture, content["architecture"], where=str(folder / "model" / FILE))
    tokenizer = Tokenizer.load(folder / "model")
    checkpoints = folder / "checkpoints"
    steps = checkpoint.steps(checkpoints)
    if not steps:
        raise UserError(f"{checkpoints} has no checkpoint yet: start the training again and let it save one")
    manifest = checkpoints / str(steps[-1]) / checkpoint.MANIFEST  # it has the sha256 of every other file of the checkpoint
    eos_ids = tuple(content.get("eos_ids") or (tokenizer.eos_id,))
    return Trained(
        architecture, tokenizer, eos_ids, _reader(checkpoints, steps[-1], item, architecture), (manifest,), content.get("source")
    )


def _reader(checkpoints: Path, step: int, item: str, architecture: Architecture) -> Read:
    known = weights(architecture)

    @functools.cache
    def restored() -> dict[tuple[str, ...], np.ndarray]:
        return dict(leaves(checkpoint.restore_params(checkpoints, step, item)))

    def read(path: tuple[str, ...]) -> np.ndarray:
        shape, weight = known[path].shape, restored().get(path)
        if weight is not None and path[0] in ("embed", "head"):
            weight = weight[: architecture.vocab_size]  # stored with more rows, where a mesh has to divide them
        if weight is None or weight.shape != shape:
            found = "is missing" if weight is None else f"has the shape {weight.shape}"
            raise UserError(
                f"{checkpoints / str(step)}: {'.'.join(path)} {found}, the architecture asks for {shape}; give another model.source"
            )
        return weight

    return read
