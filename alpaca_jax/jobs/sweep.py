"""`DIR/sweep.json`: the jobs of a sweep, their swept settings and their results. A single job is read as a sweep of one."""

import dataclasses
from pathlib import Path
from typing import Any

from alpaca_jax import rundir
from alpaca_jax.cluster import record
from alpaca_jax.cluster.job import Backend, Job
from alpaca_jax.errors import UserError
from alpaca_jax.jobs.backends import backend

FILE = "sweep.json"


@dataclasses.dataclass
class Entry:
    """One combination: the job that runs it, and its result once it has ended."""

    name: str  # also of its folder, inside the sweep's
    swept: dict[str, str]  # the keys that differ between the jobs, as given
    words: tuple[str, ...]  # the job's settings without its dir; they identify it in a later start
    dir: str  # of the run: the job's folder, or a path on an object store
    job: Job
    result: dict[str, Any] | None = None


@dataclasses.dataclass
class Sweep:
    """The jobs in the folders below one, on one backend."""

    folder: Path
    backend: str
    verb: str
    objective: str
    parallel: int | None = None  # jobs at a time; None: all at once, since the backend has a queue
    entries: list[Entry] = dataclasses.field(default_factory=list)
    single: bool = False  # one job that was launched without a sweep; it has no sweep.json

    def runs_on(self) -> Backend:
        """Returns the backend of the jobs."""
        return backend(self.backend)

    def named(self, name: str) -> Entry:
        """Returns the entry of that name."""
        return next(entry for entry in self.entries if entry.name == name)

    def same(self, words: tuple[str, ...]) -> Entry | None:
        """Returns the entry with these settings, None if there is none."""
        return next((entry for entry in self.entries if entry.words == words), None)

    def write(self) -> None:
        """Writes sweep.json."""
        value = dataclasses.asdict(self)
        del value["single"], value["folder"]
        for entry in value["entries"]:
            entry["job"] |= {"folder": str(entry["job"]["folder"]), "directory": str(entry["job"]["directory"])}
        rundir.write_json(self.folder / FILE, value | {"written": record.now()})


def exists(folder: Path) -> bool:
    """True if `folder` holds a sweep."""
    return (folder / FILE).exists()


def read(folder: Path) -> Sweep:
    """Returns the sweep in `folder`; a UserError if sweep.json can't be read."""
    value = rundir.read_json(folder / FILE)
    try:
        value.pop("written")
        entries = [_entry(folder, entry) for entry in value.pop("entries")]
        return Sweep(folder=folder, entries=entries, **value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / FILE}: not a sweep of this version ({error!r}); give another dir=") from error


def find(folder: Path) -> Sweep:
    """Returns the sweep in `folder`, or its single job as one; a UserError if it holds neither."""
    if exists(folder):
        return read(folder)
    if not record.exists(folder):
        below = sorted(path.parent for name in (FILE, record.FILE) for path in folder.glob(f"*/{name}"))
        hint = f"below it there are {', '.join(map(str, below[:8]))}" if below else "give the dir= of a launch or of a sweep"
        raise UserError(f"{folder} holds neither {record.FILE} nor {FILE}: {hint}")
    job_record = record.read(folder)
    job = job_record.job
    entry = Entry(folder.absolute().name, swept={}, words=job.command[2:], dir=job.run or str(folder), job=job)
    return Sweep(folder=folder, backend=job_record.backend, verb="", objective="heldout_loss", entries=[entry], single=True)


def _entry(folder: Path, value: dict[str, Any]) -> Entry:
    described = value.pop("job")
    for field in ("command", "secrets"):
        described[field] = tuple(described[field])
    # A folder may have been moved, or be mounted elsewhere on this host.
    described["folder"] = folder / value["name"]
    value["words"] = tuple(value["words"])
    return Entry(job=Job(**described), **value)
