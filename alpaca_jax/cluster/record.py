"""`FOLDER/job.json`: the job, its attempts and where it stands, for whoever looks at the folder later. It never holds a secret."""

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import psutil

from alpaca_jax import manifest, rundir, storage
from alpaca_jax.cluster.job import Job, State, now
from alpaca_jax.errors import UserError

FILE = "job.json"


@dataclasses.dataclass
class Attempt:
    """One start of all ranks; `step` is the newest checkpoint's when it began."""

    number: int
    started: str
    step: int | None
    ended: str | None = None
    exit_code: int | None = None


@dataclasses.dataclass
class Record:
    """What job.json holds; `write` puts it in place whole."""

    backend: str
    job: Job
    state: State = State.queued
    id: str | None = None
    launcher: dict[str, Any] | None = None  # the process that supervises: host, pid, when it was made
    attempts: list[Attempt] = dataclasses.field(default_factory=list)
    stalled: int = 0  # attempts in a row without a newer checkpoint
    exit_code: int | None = None
    reason: str = ""
    queued: str = dataclasses.field(default_factory=now)

    def write(self) -> None:
        """Writes job.json into the job's folder."""
        value = dataclasses.asdict(self) | {"state": self.state.value, "written": now()}
        value["job"] |= {"folder": str(self.job.folder), "directory": str(self.job.directory)}
        rundir.write_json(self.job.folder / FILE, value)

    @property
    def broken(self) -> Attempt | None:
        """The newest attempt, where it was never ended: its supervisor was killed, or the host died."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].ended is None else None

    def begin(self) -> Attempt:
        """Adds and returns the next attempt."""
        attempt = Attempt(self._next(), now(), newest_step(self.job))
        self.attempts.append(attempt)
        self.state = State.running
        self.write()
        return attempt

    def _next(self) -> int:
        # The logs of a job whose job.json somebody has deleted stay what they are.
        logs = [int(path.name) for path in (self.job.folder / "logs").glob("[0-9]*") if path.name.isdigit()]
        return max([*logs, *(attempt.number for attempt in self.attempts)], default=-1) + 1

    def end(self, exit_code: int | None) -> None:
        """Closes the newest attempt and counts whether it has brought the job on."""
        attempt = self.attempts[-1]
        attempt.ended, attempt.exit_code = now(), exit_code
        step = newest_step(self.job)
        grew = step is not None and (attempt.step is None or step > attempt.step)
        self.stalled = 0 if grew else self.stalled + 1
        self.exit_code = exit_code

    def settle(self, state: State, reason: str = "") -> None:
        """Writes the state."""
        self.state, self.reason = state, reason
        self.write()


def exists(folder: Path) -> bool:
    """True where `folder` holds a job."""
    return (folder / FILE).exists()


def read(folder: Path) -> Record:
    """Returns the record of the job in `folder`; a UserError says where there is none or it can't be read."""
    if not exists(folder):
        raise UserError(f"{folder} holds no job: {FILE} is not there; give the dir= of a launched run")
    value = rundir.read_json(folder / FILE)
    try:
        value.pop("written")
        described = value.pop("job")
        for field in ("folder", "directory"):
            described[field] = Path(described[field])
        for field in ("command", "secrets"):
            described[field] = tuple(described[field])
        attempts = [Attempt(**attempt) for attempt in value.pop("attempts")]
        record = Record(job=Job(**described), state=State(value.pop("state")), attempts=attempts, **value)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / FILE}: not a job as this version writes it ({error!r}); delete it to launch the job anew") from error
    # A folder may have been moved, or be mounted elsewhere on this host.
    return dataclasses.replace(record, job=dataclasses.replace(record.job, folder=folder))


def renewed(backend: str, job: Job) -> Record:
    """Returns the record to launch `job` with: the attempts before it are kept, those without progress forgiven."""
    found = Record(backend=backend, job=job, attempts=read(job.folder).attempts if exists(job.folder) else [])
    if found.broken is not None:
        found.end(None)
    found.stalled, found.exit_code = 0, None
    return found


def is_done(job: Job) -> bool:
    """True where job.json says that this very command is done: it is never started again.

    That a run's train/summary.json is there says nothing about the job: other settings, such as more steps, may be what is asked for now.
    """
    if not exists(job.folder):
        return False
    record = read(job.folder)
    return record.state is State.done and record.job.command == job.command


def this_process() -> dict[str, Any]:
    """Returns what names this process for good: a process id alone is used again."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "created": psutil.Process().create_time()}


def process_of(launcher: dict[str, Any] | None) -> psutil.Process | None:
    """Returns the living process that `this_process` has named on this host, None where it has ended."""
    if launcher is None or launcher["host"] != socket.gethostname():
        return None
    try:
        process = psutil.Process(launcher["pid"])
        alive = abs(process.create_time() - launcher["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def newest_step(job: Job) -> int | None:
    """Returns the newest whole checkpoint's step in the run's dir, None where there is none: what counts as progress."""
    try:
        return max(manifest.steps(storage.at(job.run or job.folder) / "train" / "checkpoints"), default=None)
    except UserError:  # a store out of reach for a moment is no reason to lose the job: this attempt counts as one without progress
        return None
