"""Run folders made up for the tests of the frontier."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

TEACHER = {
    "method": "magpie",
    "teacher": {"model": "parrot", "source": None},
    "sampling": {},
    "seed": 0,
    "records": 100,
    "sha256": "",
    "counts": {"kept": 100},
    "requests": 100,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "dollars": 2.0,
    "doubtful_dollars": 0.0,
    "prices": {"prompt": 1.0, "completion": 1.0, "source": "a list"},
    "seconds": 3600.0,
    "stopped_by": "count",
    "versions": {},
    "made": "2026-11-30",
}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value) if path.suffix == ".yaml" else json.dumps(value))


def records(folder: Path, **changes: Any) -> Path:
    """A folder of records with a manifest, of a teacher that charged 2 dollars for 100 of them."""
    write(folder / "manifest.json", TEACHER | changes)
    (folder / "records.jsonl").write_text("")
    return folder / "records.jsonl"


def run(folder: Path, place: Path | str, count: int, loss: float | None, seconds: float = 3600.0, **changes: Any) -> Path:
    """A run on `count` records for one hour of one CPU, scored on 50 examples unless `loss` is None."""
    summary = {
        "seconds": seconds,
        "parameters": 3_200_000,
        "counts": {"train": {"records": count, "tokens": 100 * count, "target_tokens": 60 * count}},
        "hardware": {"chip": changes.pop("chip", "cpu"), "devices": changes.pop("devices", 1)},
        "dollars": None,
    }
    config = {"data": {"records": str(place)}, "model": {"source": "student"}} | changes.pop("config", {})
    write(folder / "train" / "config.yaml", config)
    write(folder / "train" / "summary.json", summary)
    if loss is not None:
        score(folder, loss, **changes)
    return folder


def score(folder: Path, loss: float, noise: float = 0.1, on: str = "same", more: dict[str, Any] | None = None, seed: int = 0) -> None:
    """A held-out loss of 50 examples of ten tokens each, which differ by `noise`."""
    losses = 10 * (loss + noise * np.random.default_rng(seed).standard_normal(50))
    losses += 10 * loss - losses.mean()
    after = {"loss": loss, "tokens": 500, "examples": 50, "stderr": float(losses.std(ddof=1) / 10 / np.sqrt(50))}
    write(folder / "evaluate" / "scores.json", {"heldout": {"after": after}, "data": {"fingerprint": on}} | (more or {}))
    write(folder / "evaluate" / "heldout" / "after.json", {"data": on, "losses": losses.tolist(), "tokens": [10] * 50})
