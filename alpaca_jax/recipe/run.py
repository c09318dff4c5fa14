"""Runs the stages in order, each as `python -m alpaca_jax VERB ...`, and skips those already done."""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml
from rich.text import Text

from alpaca_jax import lock, storage
from alpaca_jax.errors import Restart, UserError
from alpaca_jax.recipe import child, marker, outcome
from alpaca_jax.recipe.config import Config
from alpaca_jax.recipe.marker import Marker
from alpaca_jax.recipe.units import duration
from alpaca_jax.rundir import RunDir
from alpaca_jax.terminal import Console

PREFIX = (sys.executable, "-m", "alpaca_jax")
NOTE_SECONDS = 5.0  # the most stage time that is missing from the bill after a kill -9 of the recipe

console = Console(stderr=True)


def run(config: Config, prefix: Sequence[str] = PREFIX) -> dict:
    """Runs all stages and returns the summary it wrote; SystemExit passes on the exit code of a stage that failed."""
    if storage.is_remote(config.dir):
        raise UserError(f"dir={config.dir}: a recipe needs a local folder; give one, or run its stages one by one with this dir=")
    with lock.held(config.dir, "stages", "recipe") as descriptor:
        assert descriptor is not None
        return _run(config, RunDir(config.dir), prefix, descriptor)


def _run(config: Config, folder: RunDir, prefix: Sequence[str], held: int) -> dict:
    commands = {name: stage.command(config.experiment) for name, stage in config.stages.items()}
    resolved = _resolve(commands, prefix)
    markers: list[Marker] = []
    for name, stage in config.stages.items():
        path = folder.path("stages", f"{name}.json")
        fresh = marker.expected(name, commands[name], resolved[name], markers[-1] if markers else None, config.dir.rstrip("/"))
        markers.append(_current(path, fresh, folder.path(stage.output)))
        heading = Text(f"{len(markers)} of {len(commands)}: {name}", style="bold")
        if markers[-1].state == "done":
            console.print(heading, f" already done, in {duration(markers[-1].seconds)}")
            continue
        console.print(heading, marker.shell(commands[name]), soft_wrap=True, highlight=False)
        _finish(markers[-1], path, prefix, held)
    return outcome.publish(config, folder, markers)


def _resolve(commands: Mapping[str, Sequence[str]], prefix: Sequence[str]) -> dict[str, dict]:
    """The configuration of each stage, printed by its verb. This runs before any stage starts, so that a misspelt key is reported first."""
    processes = {
        name: subprocess.Popen([*prefix, *command, "--cfg"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        for name, command in commands.items()
    }
    answers = {name: process.communicate()[0] for name, process in processes.items()}
    for name, process in processes.items():
        if process.returncode:
            console.print(Text(f"{name} can't run: ", style="red"), marker.shell(commands[name]), sep="", highlight=False, soft_wrap=True)
            raise SystemExit(process.returncode)
    return {name: yaml.safe_load(text) for name, text in answers.items()}


def _current(path: Path, expected: Marker, output: Path) -> Marker:
    """The marker on disk if nothing it depends on has changed; else the fresh one, with old output moved to dir/replaced."""
    previous = marker.read(path)
    if previous is None:
        return expected
    previous = previous.renewed(expected)
    if previous.fingerprint == expected.fingerprint and (previous.state == "started" or output.exists()):
        previous.write(path)
        return previous
    if previous.identity != expected.identity and output.exists():
        moved = path.parent.parent / "replaced" / f"{time.strftime('%Y%m%d-%H%M%S')}-{output.name}-{previous.id[:6]}"
        with _writing(expected, output):  # nobody else is
            pass
        moved.parent.mkdir(exist_ok=True)
        shutil.move(output, moved)
        console.print(f"{expected.name}: its settings or inputs have changed; moved {output} to {moved}", soft_wrap=True, highlight=False)
    path.unlink()
    return expected


def _writing(stage: Marker, output: Path) -> AbstractContextManager[Any]:
    """The lock that the stage's verb takes; a UserError where another process holds it."""
    if stage.command[0] == "convert":
        return lock.target(output, "recipe")
    return lock.held(output.parent, output.name, "recipe")


def _finish(stage: Marker, path: Path, prefix: Sequence[str], held: int) -> None:
    """Runs the stage until it is done, restarts it whenever it asks for that, and keeps its marker up to date."""
    while True:
        code, stopping = _attempt(stage, path, prefix, held)
        if code == 0:
            stage.done()
            stage.write(path)
            return
        if code != Restart.exit_code or stopping:
            again = "" if code == UserError.exit_code else "; the same command resumes from here"
            told = Text(f"{stage.name} ended with exit code {code}", style="red")
            console.print(told, f"{_why(code)}{again}", sep="", highlight=False)
            raise SystemExit(code)
        console.print(f"{stage.name} has saved its state and asks to be restarted")


def _attempt(stage: Marker, path: Path, prefix: Sequence[str], held: int) -> tuple[int, bool]:
    stage.starts += 1
    before = noted = stage.seconds
    stage.write(path)

    def sampled(seconds: float, memory: int) -> None:
        nonlocal noted
        stage.seconds = round(before + seconds, 3)
        stage.peak_memory_bytes = max(stage.peak_memory_bytes, memory)
        if stage.seconds - noted > NOTE_SECONDS:
            noted = stage.seconds
            stage.write(path)

    try:
        return child.run([*prefix, *stage.command], held, sampled)
    finally:
        stage.write(path)


def _why(code: int) -> str:
    return {
        2: ": its message is above",
        137: " (killed; perhaps out of memory)",
        201: " (a peer or the teacher was lost)",
    }.get(code, "")
