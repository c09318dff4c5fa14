"""`DIR/sweep.json`: the jobs of a sweep, their swept settings and their results. A single job is read as a sweep of one."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import documents, rundir
from alpaca_jax.cluster import record, seal
from alpaca_jax.cluster.job import Backend, Job
from alpaca_jax.config import configclass, parse
from alpaca_jax.errors import UserError
from alpaca_jax.jobs.backends import backend
from alpaca_jax.metrics.direction import Mode

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
    seal: str = ""  # of whoever started the sweep, over `record.launched`


@dataclasses.dataclass
class Sweep:
    """The jobs in the folders below one, on one backend."""

    folder: Path
    backend: str
    verb: str
    objective: str
    parallel: int | None = None  # jobs at a time; None: all at once, since the backend has a queue
    entries: list[Entry] = dataclasses.field(default_factory=list)
    keep_going: bool = False  # start the rest although the first jobs died of the same mistake
    mode: Mode = "min"  # which way the objective gets better
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

    def sealed(self, entries: Sequence[Entry]) -> None:
        """Says that this user wants these jobs to run as they are."""
        for entry in entries:
            entry.seal = seal.made(record.launched(self.backend, entry.job))

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


@configclass
class _Written:
    """What sweep.json holds; the fields are those of Sweep."""

    backend: str
    verb: str
    objective: str
    parallel: int | None = None
    keep_going: bool = False
    mode: Mode = "min"
    entries: tuple[Entry, ...]
    written: str = ""

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if len({*names}) < len(names):
            raise ValueError("two of its jobs have the same name")
        if odd := [name for name in names if name in ("", ".", "..") or "/" in name or "\0" in name]:
            raise ValueError(f"{odd[0]!r} is not the name of a job, which is that of its folder")
        if self.parallel is not None and self.parallel < 1:
            raise ValueError(f"parallel={self.parallel}: give 1 or more")


def read(folder: Path) -> Sweep:
    """Returns the sweep in `folder`; a UserError if sweep.json can't be read."""
    content = documents.json_object(documents.read(folder / FILE), str(folder / FILE))
    try:
        written = parse(_Written, content)
    except UserError as error:
        raise UserError(f"{folder / FILE}: not a sweep of this version: {error}\n  give another dir=") from error
    # A folder may have been moved, or be mounted elsewhere on this host.
    entries = [dataclasses.replace(entry, job=dataclasses.replace(entry.job, folder=folder / entry.name)) for entry in written.entries]
    return Sweep(folder, written.backend, written.verb, written.objective, written.parallel, entries, written.keep_going, written.mode)


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
