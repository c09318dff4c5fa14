"""The training run that a model comes from, with the settings it was trained with."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax import checkpoint, documents, storage
from alpaca_jax.formats import native
from alpaca_jax.formats.pretrained import AVERAGE
from alpaca_jax.rundir import read_json

CONFIG = "config.yaml"


@dataclasses.dataclass(frozen=True)
class Run:
    """A training folder (`dir/train`) and the settings in its config.yaml, as plain values."""

    folder: Path
    config: Mapping[str, Any]

    @property
    def dir(self) -> Path:
        """The run's own folder."""
        return self.folder.parent if self.folder.name == "train" else self.folder

    @property
    def data(self) -> Mapping[str, Any]:
        """The settings of its records."""
        return _mapping(self.config.get("data"))

    @property
    def heldout(self) -> int:
        """How many records it kept out of training."""
        heldout = self.data.get("heldout")
        return heldout if isinstance(heldout, int) else 0

    @property
    def source(self) -> str | None:
        """The model that it started from."""
        source = _mapping(self.config.get("model")).get("source")
        return source if isinstance(source, str) else None

    @property
    def fingerprint(self) -> str | None:
        """That of the examples it was trained on, as its newest checkpoint remembers it."""
        steps = checkpoint.steps(self.folder / "checkpoints")
        if not steps:
            return None
        content = read_json(self.folder / "checkpoints" / str(steps[-1]) / checkpoint.MANIFEST)
        found = _mapping(_mapping(_mapping(content).get("meta")).get("fingerprints")).get("data")
        return found if isinstance(found, str) else None

    def records(self) -> dict[str, str]:
        """The place of each of its sets of records, by name."""
        if sources := _mapping(self.data.get("sources")):
            return {name: str(_mapping(source).get("records")) for name, source in sources.items()}
        return {"records": str(self.data.get("records") or self.dir / "records")}


def at(folder: str | os.PathLike[str]) -> Run | None:
    """The run whose folder, train/ or checkpoint this is; else None."""
    path = storage.at(folder)
    found = native.find(path) if path.exists() else None
    return None if found is None else _read(found[0])


def of(source: str | os.PathLike[str]) -> Run | None:
    """The run that a model was trained in: its folder or a checkpoint, or what was converted from it into its folder; else None."""
    path = storage.at(os.fspath(source).removesuffix(AVERAGE))
    if not path.exists():  # a name on the hub
        return None
    if (run := at(path)) is not None:
        return run
    for folder in (path.parent, path.parent.parent):  # RUN/hf, RUN/model.gguf and RUN/train/hf/STEP
        found = native.find(folder)
        if found is not None and path.parent in (found[0], found[0].parent, found[0] / "hf"):
            return _read(found[0])
    return None


def lineage(source: str | os.PathLike[str]) -> Iterator[Run]:
    """The run of a model, the run of the model that it started from, and so on."""
    seen, run = set[Path](), of(source)
    while run is not None and run.folder not in seen:
        seen.add(run.folder)
        yield run
        run = None if run.source is None else of(run.source)


def _read(folder: Path) -> Run | None:
    path = folder / CONFIG
    with storage.explained(path):
        if not path.is_file():  # a conversion to a training folder
            return None
        config = documents.yaml_value(documents.read(path), str(path))
    return Run(folder, _mapping(config))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
