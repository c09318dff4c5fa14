"""`FOLDER/job.json`: the job, its attempts and its state, for whoever looks at the folder later. It never contains a secret."""

import dataclasses
import datetime
import os
import re
import socket
from pathlib import Path
from typing import Any

import psutil

from alpaca_jax import documents, manifest, rundir, storage
from alpaca_jax.cluster import seal
from alpaca_jax.cluster.job import Backend, Job, State, Status, now
from alpaca_jax.config import configclass, parse
from alpaca_jax.errors import UserError

FILE = "job.json"


@configclass
class Process:
    """A process as job.json names it."""

    host: str
    pid: int
    created: float  # when it began: an id alone may be used again

    def __post_init__(self) -> None:
        if not 0 < self.pid < 1 << 31:
            raise ValueError(f"pid={self.pid} is no process id")


@dataclasses.dataclass
class Attempt:
    """One start of all ranks; `step` is that of the newest checkpoint at its begin."""

    number: int
    started: str
    step: int | None
    ended: str | None = None
    exit_code: int | None = None


@dataclasses.dataclass
class Record:
    """The contents of job.json; `write` replaces the file atomically."""

    backend: str
    job: Job
    state: State = State.queued
    id: str | None = None
    launcher: dict[str, Any] | None = None  # the supervising process: host, pid and when it was created
    attempts: list[Attempt] = dataclasses.field(default_factory=list)
    stalled: int = 0  # attempts in a row without a newer checkpoint
    exit_code: int | None = None
    reason: str = ""
    queued: str = dataclasses.field(default_factory=now)
    seal: str = ""  # of whoever launched it, over `launched`

    def write(self) -> None:
        """Writes job.json into the job's folder."""
        value = dataclasses.asdict(self) | {"state": self.state.value, "written": now()}
        value["job"] |= {"folder": str(self.job.folder), "directory": str(self.job.directory)}
        rundir.write_json(self.job.folder / FILE, value)

    @property
    def broken(self) -> Attempt | None:
        """The newest attempt if it was never closed: its supervisor was killed, or the host died."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].ended is None else None

    def begin(self) -> Attempt:
        """Adds and returns the next attempt."""
        attempt = Attempt(self._next(), now(), newest_step(self.job))
        self.attempts.append(attempt)
        self.state = State.running
        self.write()
        return attempt

    def _next(self) -> int:
        # If somebody has deleted job.json, the logs of the earlier attempts stay.
        logs = [int(path.name) for path in (self.job.folder / "logs").glob("[0-9]*") if path.name.isdigit()]
        return max([*logs, *(attempt.number for attempt in self.attempts)], default=-1) + 1

    def end(self, exit_code: int | None) -> None:
        """Closes the newest attempt and counts it if it brought no newer checkpoint."""
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

    def status(self, state: State | None = None, reason: str | None = None) -> Status:
        """Returns the job's status, with the state and reason in job.json by default."""
        attempt = self.attempts[-1].number if self.attempts else None
        return Status(state or self.state, self.id, attempt, self.exit_code, self.reason if reason is None else reason)


def exists(folder: Path) -> bool:
    """True if `folder` holds a job."""
    return (folder / FILE).exists()


@configclass
class _Written:
    """What job.json holds; the fields are those of Record."""

    backend: str
    job: Job
    state: State
    id: str | None = None
    launcher: Process | None = None
    attempts: tuple[Attempt, ...]
    stalled: int = 0
    exit_code: int | None = None
    reason: str = ""
    queued: str
    seal: str = ""
    written: str = ""

    def __post_init__(self) -> None:
        if self.id is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", self.id):
            raise ValueError(f"id={self.id!r} is not the id of a job")  # a command that is given it would take it for an option
        times = [self.queued, *(time for attempt in self.attempts for time in (attempt.started, attempt.ended) if time is not None)]
        for time in times:
            if datetime.datetime.fromisoformat(time).tzinfo is None:
                raise ValueError(f"{time} has no time zone")


def read(folder: Path) -> Record:
    """Returns the record of the job in `folder`; a UserError if there is none or it can't be read."""
    if not exists(folder):
        raise UserError(f"{folder} holds no job: there is no {FILE}; give the dir= of a launched run")
    content = documents.json_object(documents.read(folder / FILE), str(folder / FILE))
    try:
        written = parse(_Written, content)
    except UserError as error:
        raise UserError(f"{folder / FILE}: not a job of this version: {error}\n  delete it to launch the job anew") from error
    fields = {field.name: getattr(written, field.name) for field in dataclasses.fields(Record)}
    launcher = None if written.launcher is None else dataclasses.asdict(written.launcher)
    # A folder may have been moved, or be mounted elsewhere on this host.
    own = {"launcher": launcher, "attempts": list(written.attempts), "job": dataclasses.replace(written.job, folder=folder)}
    return Record(**fields | own)


def launched(backend: str, job: Job) -> dict[str, Any]:
    """Returns what a launch decides of a job, for its seal: all but its folder, which may be moved."""
    return {"backend": backend, "job": dataclasses.asdict(job) | {"folder": "", "directory": str(job.directory)}}


def renewed(backend: str, job: Job) -> Record:
    """Returns the record for a new launch of `job`: earlier attempts are kept, those without progress no longer counted."""
    earlier = read(job.folder).attempts if exists(job.folder) else []
    renewal = Record(backend=backend, job=job, attempts=earlier, seal=seal.made(launched(backend, job)))
    if renewal.broken is not None:
        renewal.end(None)
    renewal.stalled, renewal.exit_code = 0, None
    return renewal


def is_done(job: Job) -> bool:
    """True if job.json says that this very command is done; it is never started again.

    The run's train/summary.json wouldn't tell: the job may now have other settings, such as more steps.
    """
    if not exists(job.folder):
        return False
    record = read(job.folder)
    return record.state is State.done and record.job.command == job.command


def done_notice(folder: Path) -> str:
    """Returns what a launch says of a job that is done."""
    return f"the job in {folder} is done, so it is not started again (another dir= or another command is another job)"


def check_not_active(backend: Backend, folder: Path) -> None:
    """Raises a UserError if `folder` holds a job that is queued or running."""
    if exists(folder) and not backend.state(folder).state.final:
        raise UserError(f"the job in {folder} is queued or running already; cancel it first, or give another dir=")


def settle_cancelled(folder: Path) -> None:
    """Writes into job.json that the job was cancelled, unless it says already how the job ended."""
    job_record = read(folder)
    if not job_record.state.final:
        job_record.settle(State.cancelled, "cancelled")


def this_process() -> dict[str, Any]:
    """Returns what identifies this process: a process id alone may be reused."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "created": psutil.Process().create_time()}


def process_of(launcher: dict[str, Any] | None) -> psutil.Process | None:
    """Returns the process that `this_process` described on this host, None if it has ended."""
    if launcher is None or launcher["host"] != socket.gethostname():
        return None
    try:
        process = psutil.Process(launcher["pid"])
        alive = abs(process.create_time() - launcher["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if alive else None


def newest_step(job: Job) -> int | None:
    """Returns the step of the newest whole checkpoint in the run's dir, None if there is none: the measure of progress."""
    try:
        return max(manifest.steps(storage.at(job.run or job.folder) / "train" / "checkpoints"), default=None)
    except UserError:  # if the store can't be reached now, this attempt counts as one without progress
        return None
