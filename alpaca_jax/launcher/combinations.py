"""Turns a combination of a sweep's settings into a job: checks the settings, and chooses its folder and command."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alpaca_jax import grammar, storage
from alpaca_jax.cluster.job import Job
from alpaca_jax.composition import references
from alpaca_jax.errors import UserError
from alpaca_jax.jobs.sweep import Entry, Sweep
from alpaca_jax.launcher.config import LauncherConfig

PROGRAM: tuple[str, ...] = ("alpaca-jax",)
LONGEST_NAME = 100
START_LENGTH, END_LENGTH = 16, 20  # of a job's name: a pod's is longer, with at most 63 characters


def entry(
    sweep: Sweep, overrides: Sequence[str], fixed: set[str], arguments: Sequence[str], dir: str, settings: LauncherConfig, nodes: int
) -> Entry:
    """Returns the combination's entry in the sweep: that of an earlier start with the same settings, or a new one.

    `overrides` are Hydra's, `fixed` the keys that aren't swept; `arguments` stand before the settings in the command.
    """
    words = tuple(word for word in map(_word, overrides) if not word.startswith("dir="))
    swept = {key: value for key, _, value in (word.lstrip("+~").partition("=") for word in words) if key not in fixed}
    before = sweep.same(words)
    name = before.name if before else _free_name(sweep, swept, settings.folders)
    run_dir = f"{dir.rstrip('/')}/{name}"
    job = Job(
        folder=sweep.folder / name,
        command=(*PROGRAM, sweep.verb, *arguments, *words, f"dir={grammar.word(run_dir)}"),
        name=_job_name(sweep.folder, name),
        nodes=nodes,
        processes_per_node=settings.processes_per_node,
        secrets=settings.secrets,
        environment=settings.environment,
        time_limit=settings.time_limit,
        restarts=settings.restarts,
        options=options(settings),
        run=None if run_dir == str(sweep.folder / name) else run_dir,
    )
    if before is not None:
        before.job, before.dir, before.swept = job, run_dir, swept
        return before
    new = Entry(name=name, swept=swept, words=words, dir=run_dir, job=job)
    sweep.entries.append(new)
    return new


def options(settings: LauncherConfig) -> dict[str, Any]:
    """Returns those of the backend's own options that are set."""
    return {key: value for key, value in settings.options.items() if value is not None}


def composed(config: Any, dir: str) -> dict[str, Any]:
    """Returns Hydra's composed config of a combination as a plain mapping with this `dir`; a UserError if a value is missing."""
    mapping = OmegaConf.to_container(config, resolve=False)
    assert isinstance(mapping, dict)
    mapping.pop("hydra", None)
    mapping["dir"] = dir
    return references.resolved(OmegaConf.create(mapping))


def check(entries: Sequence[Entry], mappings: Sequence[Mapping[str, Any]], parse: Callable[[Mapping[str, Any]], Any]) -> None:
    """Raises one UserError that names every combination with an invalid configuration."""
    complaints: dict[str, list[str]] = {}
    for one, mapping in zip(entries, mappings, strict=True):
        try:
            parse(mapping)
        except UserError as error:
            complaints.setdefault(str(error), []).append(title(one))
    if complaints:
        lines = [f"{'; '.join(titles)}: {complaint}" for complaint, titles in complaints.items()]
        raise UserError("\n".join(["nothing was started, because combinations of this sweep are invalid", *lines]))


def title(one: Entry) -> str:
    """Returns the swept keys and their values."""
    return " ".join(f"{key}={value}" for key, value in one.swept.items()) or f"job {one.name}"


def secrets(mapping: Any) -> set[str]:
    """Returns the names of the variables in which a configuration expects a key (its `key_env` settings)."""
    if not isinstance(mapping, Mapping):
        return set()
    own = {value for key, value in mapping.items() if key == "key_env" and isinstance(value, str) and value}
    return own.union(*map(secrets, mapping.values()))


def folder_of(settings: LauncherConfig, dir: str) -> Path:
    """Returns the local folder of the sweep's own files; a UserError if it isn't on a disk."""
    where = settings.folder or dir
    if storage.is_remote(where):
        raise UserError(
            f"{where} is on an object store, but the sweep's own files (job.json, logs) must be on a disk here: "
            "give hydra.launcher.folder=runs/NAME"
        )
    return Path(where).expanduser().absolute()


def _word(override: str) -> str:
    """Hydra's override in the syntax of our command line."""
    override = override.removeprefix("++")
    key, _, value = override.partition("=")
    if "@" in key:  # FOLDER@KEY, a list of files
        return f"{key.partition('@')[2]}={value}"
    return f"{key}={value.rpartition('/')[0]}" if key == "experiment" and "/" in value else override


def _free_name(sweep: Sweep, swept: Mapping[str, str], how: str) -> str:
    taken = {one.name for one in sweep.entries}
    if how == "numbers" or not swept:
        return next(str(number) for number in range(len(taken) + 1) if str(number) not in taken)
    name = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in swept.items())
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    if plain == name and len(plain) <= LONGEST_NAME and plain not in taken:
        return plain
    return f"{plain[:LONGEST_NAME]}-{hashlib.sha256(repr(sorted(swept.items())).encode()).hexdigest()[:8]}"


def _job_name(folder: Path, name: str) -> str:
    """A short name that every backend accepts: lower-case letters, digits and '-', a letter first."""
    start, end = (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in (folder.name, name))
    start = re.sub(r"^[^a-z]+", "", start)[:START_LENGTH].strip("-") or "sweep"
    return f"{start}-{end[-END_LENGTH:].strip('-') or 'job'}"
