"""The runs below a folder: those that its sweep.json lists, else every folder in which something was trained."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import documents, records, storage
from alpaca_jax.errors import UserError
from alpaca_jax.records.manifest import Manifest
from alpaca_jax.scores import runs

SWEEP = "sweep.json"
SUMMARY, SCORES = ("train", "summary.json"), ("evaluate", "scores.json")
DEPTH = 3  # folders below the given one in which runs are looked for


@dataclasses.dataclass(frozen=True)
class Source:
    """One set of records that a run was trained on: its file, and what is beside it if `generate` made it."""

    records: Path
    manifest: Manifest | None


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished and scored run, as its files describe it."""

    name: str
    folder: Path
    swept: Mapping[str, str]  # the settings in which it differs from the others, as they were given
    config: Mapping[str, Any]
    summary: Mapping[str, Any]  # of its training
    scores: Mapping[str, Any]
    sources: tuple[Source, ...]

    @property
    def records(self) -> int:
        """How many records it was trained on."""
        return whole(at(self.summary, "counts", "train", "records"))

    @property
    def student(self) -> str:
        """The model that it started from, with the layers that were kept; or the size of its random weights."""
        model = mapping(self.config.get("model"))
        if not (source := model.get("source")):
            return f"{whole(self.summary.get('parameters')) / 1e6:.1f}M from scratch"
        name = str(source).rstrip("/").rpartition("/")[2]
        return f"{name}, {_layers(layers)}" if (layers := model.get("keep_layers")) else name


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A run that has no place on the picture, and why."""

    name: str
    why: str


def find(folder: Path) -> tuple[list[Run], list[LeftOut]]:
    """Returns the finished runs below `folder`, in order, and those that are left out; a UserError where there is no run at all."""
    if not folder.is_dir():
        raise UserError(f"dir={folder}: there is no such folder; give that of a multirun, or one with runs below it")
    places = _listed(folder) if (folder / SWEEP).is_file() else [(name, path, {}) for name, path in _below(folder)]
    if not places:
        raise UserError(f"dir={folder}: there is no run below it; give the folder of a multirun (alpaca-jax recipe -m ... dir=FOLDER)")
    found: list[Run] = []
    left_out: list[LeftOut] = []
    for name, path, swept in places:
        try:
            found.append(_read(name, path, swept))
        except UserError as error:
            left_out.append(LeftOut(name, " ".join(str(error).split())))
    return found, left_out


def at(value: Any, *keys: str) -> Any:
    """Returns what lies at these keys of nested mappings, None where there is nothing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """Returns the value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """Returns the value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """Returns the value if it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf") else None


def whole(value: Any) -> int:
    """Returns the value if it is a number, else 0."""
    return int(number(value) or 0)


def _listed(folder: Path) -> list[tuple[str, Path, dict[str, str]]]:
    """The jobs of a sweep; a folder that was moved holds them still."""
    content = documents.json_object(documents.read(folder / SWEEP), str(folder / SWEEP))
    entries = content.get("entries")
    if not isinstance(entries, list) or not all(isinstance(at(entry, "name"), str) for entry in entries):
        raise UserError(f"{folder / SWEEP} is not the list of a sweep's jobs; move it away, and the runs below {folder} are looked for")
    listed = []
    for entry in entries:
        beside = folder / entry["name"]
        path = beside if beside.is_dir() or not entry.get("dir") else storage.at(str(entry["dir"]))
        listed.append((entry["name"], path, {str(key): str(value) for key, value in mapping(entry.get("swept")).items()}))
    return listed


def _below(folder: Path) -> list[tuple[str, Path]]:
    """The folders below this one, or it itself, that hold a training, begun or done."""
    found = []
    for depth in range(DEPTH):
        for path in folder.glob("/".join(["*"] * depth + ["train"])):
            if path.is_dir():
                found.append((path.parent.relative_to(folder).as_posix(), path.parent))
    return sorted((name if name != "." else folder.name, path) for name, path in found)


def _read(name: str, folder: Path, swept: Mapping[str, str]) -> Run:
    """The run; a UserError says what it lacks."""
    for parts, lacks in (
        (SUMMARY, f"isn't finished, {'/'.join(SUMMARY)} is missing; start it again to go on"),
        (SCORES, f"isn't scored, {'/'.join(SCORES)} is missing: alpaca-jax evaluate dir={folder}"),
    ):
        if not folder.joinpath(*parts).is_file():
            raise UserError(lacks)
    summary, scores = (
        documents.json_object(documents.read(path), str(path)) for path in (folder.joinpath(*parts) for parts in (SUMMARY, SCORES))
    )
    path = folder / SUMMARY[0] / runs.CONFIG  # whether its checkpoints are there still doesn't matter here
    run = runs.Run(path.parent, mapping(documents.yaml_value(documents.read(path), str(path))))
    return Run(name, folder, swept, run.config, summary, scores, tuple(_source(Path(place), folder) for place in run.records().values()))


def _source(place: Path, folder: Path) -> Source:
    """The records at a place that a run names; a relative one may have been meant from where the run was started, above its folder."""
    if not place.is_absolute() and not place.exists():
        place = next((above / place for above in folder.absolute().parents if (above / place).exists()), place)
    file = place / records.FILE if place.is_dir() else place
    manifest = file.with_name(records.MANIFEST)
    return Source(file, Manifest.read(manifest) if manifest.is_file() else None)


def _layers(kept: object) -> str:
    """The layers that a student keeps, as its settings name them."""
    return kept if isinstance(kept, str) else f"{len(kept) if isinstance(kept, list) else kept} layers"
