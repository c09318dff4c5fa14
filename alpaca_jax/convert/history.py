"""The history of a model that was trained here, from the files of its run, for the model card."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpaca_jax import checkpoint, documents, metrics, records
from alpaca_jax.data.origin import PREFIX
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.rundir import read_json

# Published records by the sha256 of their file, with their name on the Hugging Face hub.
PUBLISHED = {"2eddafc6b977608d778aaab8dfc7e50e547b3af9826dfb9e909d9fc362e4a419": "tatsu-lab/alpaca"}
LARGEST = 10**9  # most bytes of records that are read for their sha256


@dataclasses.dataclass(frozen=True)
class Data:
    """One set of records: its name and, where `generate` wrote it, its manifest and settings (otherwise empty)."""

    name: str
    manifest: dict[str, Any]
    settings: dict[str, Any]
    published: str | None  # its name on the hub


@dataclasses.dataclass(frozen=True)
class History:
    """One checkpoint of a training run, with its `meta`; what the run lacks, or doesn't have yet, is empty."""

    step: int
    meta: dict[str, Any]
    summary: dict[str, Any]  # of the whole training; only for its last checkpoint
    metrics: list[dict[str, Any]]  # up to this step
    scores: dict[str, Any]  # of `evaluate`; likewise
    seconds: dict[str, float]  # of each stage of a recipe
    data: list[Data]

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the training at the time of the checkpoint."""
        return self.meta.get("config") or {}


def read(model: Pretrained) -> History | None:
    """Returns the history of a model that was opened from a run's checkpoint; None for other models."""
    file = model.files[0] if len(model.files) == 1 or model.adapted else Path()
    if file.name != checkpoint.MANIFEST or file.parent.parent.name != "checkpoints":
        return None
    train, step = file.parents[2], int(file.parent.name)
    run = train.parent if train.name == "train" else train
    meta = read_json(file).get("meta") or {}
    summary = _json(train / "summary.json")
    last = summary.get("steps") == step
    return History(
        step=step,
        meta=meta,
        summary=summary if last else {},
        metrics=[line for line in metrics.read(train / "metrics.jsonl") if line["step"] <= step],
        scores=_json(run / "evaluate" / "scores.json") if last else {},
        seconds={path.stem: _json(path).get("seconds", 0.0) for path in sorted((run / "stages").glob("*.json"))},
        data=list(_data(meta.get("config") or {}, run)),
    )


def _data(config: dict[str, Any], run: Path) -> Iterator[Data]:
    settings = config.get("data") or {}
    if settings.get("sources"):
        places = [source["records"] for source in settings["sources"].values()]
    else:
        places = [settings.get("records")]
    for place in places:
        folder = run / "records" if place is None else _folder(Path(place).expanduser())
        manifest = _json(folder / records.MANIFEST) if folder else {}
        # Only `generate` writes a manifest with a teacher; a folder may hold that of another project.
        generated = manifest if "teacher" in manifest else {}
        yield Data(
            name=str(place or "records"),
            manifest=generated,
            settings=_settings(folder / "config.yaml") if folder and generated else {},
            published=None if generated or place is None else _published(place),
        )


def _folder(path: Path) -> Path | None:
    """The folder where the manifest of these records would be, had `generate` written them."""
    if path.is_dir():
        return path if (path / records.MANIFEST).is_file() else path / "records"
    return path.parent if path.name == records.FILE else None


def _published(place: str) -> str | None:
    path = Path(place).expanduser()
    if place.startswith(PREFIX) or not path.is_file() or path.stat().st_size > LARGEST:
        return None
    return PUBLISHED.get(records.sha256([path]))


def _settings(path: Path) -> dict[str, Any]:
    settings = documents.yaml_value(documents.read(path), str(path)) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    return documents.json_object(documents.read(path), str(path)) if path.is_file() else {}
