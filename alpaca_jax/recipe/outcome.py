"""The results of a finished run: summary.json, report.html, a short table, and the command that starts a chat."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any

import psutil
from rich.table import Table

from alpaca_jax import documents, metrics, records
from alpaca_jax.recipe import page
from alpaca_jax.recipe.config import Config
from alpaca_jax.recipe.marker import Marker, shell
from alpaca_jax.recipe.units import duration
from alpaca_jax.rundir import RunDir, write_atomic, write_json
from alpaca_jax.terminal import Console

PACKAGES = ("alpaca-jax", "jax", "flax", "optax", "orbax-checkpoint", "tensorflow-cpu", "tensorflow", "openai", "numpy")
EXAMPLES = 3


def publish(config: Config, folder: RunDir, markers: Sequence[Marker]) -> dict[str, Any]:
    """Writes summary.json and report.html from the stages' files, prints the table, and returns the summary."""
    outputs = read(folder)
    summary = collect(config, folder, markers, outputs)
    write_json(folder.path("summary.json"), summary)
    write_atomic(folder.path("report.html"), page.build(summary, outputs, markers))
    _print(summary, folder)
    return summary


def read(folder: RunDir) -> dict[str, Any]:
    """Returns what each stage wrote to the folder; an empty mapping or list if the recipe lacks that stage."""
    records_file = folder.root / "records" / records.FILE
    return {
        "manifest": _json(folder, "records", records.MANIFEST),
        "records": records.read(records_file).records[:EXAMPLES] if records_file.exists() else [],
        "train": _json(folder, "train", "summary.json"),
        "metrics": metrics.read(folder.root / "train" / "metrics.jsonl"),
        "scores": _json(folder, "evaluate", "scores.json"),
    }


def collect(config: Config, folder: RunDir, markers: Sequence[Marker], outputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the run's figures; None for what no stage measured."""
    heldout = outputs["scores"].get("heldout") or {}
    exported = [config.stages[marker.name].output for marker in markers if marker.command[0] == "convert"]
    return {
        "records_kept": outputs["manifest"].get("records"),
        "heldout_loss_before": (heldout.get("before") or {}).get("loss"),
        "heldout_loss_after": (heldout.get("after") or {}).get("loss"),
        "heldout_loss_fall": heldout.get("fall"),
        "suites": {name: row for name, suite in (outputs["scores"].get("suites") or {}).items() if (row := _first(suite))},
        "compare": _compared(outputs["scores"].get("compare") or {}),
        "tokens_real": outputs["train"].get("tokens_real"),
        "steps": outputs["train"].get("steps"),
        "seconds": {marker.name: marker.seconds for marker in markers},
        "seconds_total": round(sum(marker.seconds for marker in markers), 3),
        "dollars": outputs["manifest"].get("dollars", 0.0),
        "peak_memory_bytes": max((marker.peak_memory_bytes for marker in markers), default=0),
        "hf_dir": str(folder.root / exported[-1]) if exported else None,
        "dir": str(folder.root),
        "command": shell(again(config)),
        "chat": shell(["serve", f"model.source={folder.root / exported[-1]}"]) if exported else None,
        "finished": max((marker.finished or "" for marker in markers), default=""),
        "machine": machine(),
        "versions": versions(),
    }


def _first(suite: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a suite that counts: its first, without what only its table needs."""
    names = ("metric", "before", "before_stderr", "value", "stderr", "difference", "difference_stderr", "questions")
    return {name: suite["rows"][0][name] for name in names} if suite.get("rows") else None


def _compared(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Who was preferred to whom, in percent with the standard error, for each comparison that has verdicts."""
    found = [(one, one["position"] or {}) for one in value.get("comparisons", ())]
    rates = [(one, place.get("corrected") or place.get("plain")) for one, place in found]
    return [
        {
            "model": one["model"],
            "against": one["against"],
            "win_rate": rate["value"],
            "stderr": rate["standard_error"],
            "prompts": one["prompts"],
        }
        for one, rate in rates
        if rate
    ]


def again(config: Config) -> list[str]:
    """Returns the command line, without the program's name, that reproduces this run."""
    command = ["recipe", *([f"experiment={config.experiment}"] if config.experiment else []), f"dir={config.dir}", f"seed={config.seed}"]
    return command + [f"stages.{name}.overrides.{added}" for name, stage in config.stages.items() for added in stage.added()]


def machine() -> dict[str, Any]:
    """Returns the machine of the run, as the operating system describes it."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages that the results depend on."""
    installed = {
        distribution.metadata["Name"].lower().replace("_", "-"): distribution.version for distribution in importlib.metadata.distributions()
    }
    return {"python": platform.python_version()} | {name: installed[name] for name in PACKAGES if name in installed}


def _json(folder: RunDir, *parts: str) -> dict[str, Any]:
    path = folder.root.joinpath(*parts)
    return documents.json_object(documents.read(path), str(path)) if path.exists() else {}


def _print(summary: dict[str, Any], folder: RunDir) -> None:
    table = Table(title=f"Done in {duration(summary['seconds_total'])}", title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in page.figures(summary).items():
        table.add_row(name, text)
    table.add_row("report", str(folder.root / "report.html"))
    console = Console()
    console.print(table)
    if summary["chat"]:
        console.print("Chat with the student:", style="bold")
        console.print(f"  {summary['chat']}", soft_wrap=True, highlight=False)
