"""What a job is, what a backend can do with it, and what its exit codes mean."""

import dataclasses
import datetime
import enum
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from alpaca_jax.config import suggestion
from alpaca_jax.errors import Restart, UserError

NAME_LIMIT = 63  # of a Kubernetes label, the shortest of all backends: a job can move to another one
MOST_PROCESSES = 65_536
OWN_VARIABLES = "ALPACA_JAX_(COORDINATOR|PROCESS|PROCESSES|ATTEMPT|JOB|LOCAL_PROCESS|LOCAL_PROCESSES)"


class State(enum.Enum):
    """The state of a job; a `lost` one should be running, but nothing of it is left."""

    queued = "queued"
    running = "running"
    restarting = "restarting"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"
    lost = "lost"

    @property
    def final(self) -> bool:
        """True if nothing is left of the job that could continue by itself."""
        return self in (State.done, State.failed, State.cancelled, State.lost)


@dataclasses.dataclass(frozen=True)
class Job:
    """One command on `nodes` x `processes_per_node` processes; this is all that a restart needs."""

    folder: Path  # of job.json and logs/: the run's dir, or a local folder if that is on an object store
    command: tuple[str, ...]  # the same on every rank, such as ("alpaca-jax", "train", "dir=...")
    name: str
    nodes: int = 1
    processes_per_node: int = 1
    secrets: tuple[str, ...] = ()  # names of variables; their values are passed in the environment and written nowhere
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)  # not secret: it is written to job.json
    time_limit: int | None = None  # minutes
    restarts: int = 3  # in a row without progress
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the backend's own
    run: str | None = None  # the run's dir if it isn't `folder`
    directory: Path = dataclasses.field(default_factory=Path.cwd)  # where the command runs

    def __post_init__(self) -> None:
        if not self.command:
            raise UserError(f"the job {self.name} has no command; give one, such as: alpaca-jax train dir=...")
        if len(self.name) > NAME_LIMIT:
            raise UserError(f"the job's name {self.name!r} has {len(self.name)} characters; give one of {NAME_LIMIT} at most")
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", self.name):
            raise UserError(
                f"the job's name {self.name!r} must have only letters, digits, '.', '_' and '-', and a letter or digit at both ends"
            )
        texts = (*self.command, *self.secrets, *self.environment, *self.environment.values(), str(self.folder), str(self.directory))
        if "\0" in "".join(texts):
            raise UserError(f"the job {self.name} has a null byte in its command, environment or folders; a process can't be given one")
        if odd := [name for name in (*self.secrets, *self.environment) if not name or "=" in name]:
            raise UserError(f"{odd[0]!r} is not the name of a variable: it is empty, or has a '=' in it")
        for field, least in (("nodes", 1), ("processes_per_node", 1), ("restarts", 0)):
            if getattr(self, field) < least:
                raise UserError(f"{field} is {getattr(self, field)}; give {least} or more")
        if self.processes > MOST_PROCESSES:
            raise UserError(
                f"{self.nodes} nodes with {self.processes_per_node} processes each: a job has at most {MOST_PROCESSES} processes"
            )
        if self.time_limit is not None and self.time_limit < 1:
            raise UserError(f"time_limit is {self.time_limit} minutes; give 1 or more, or none")
        if both := set(self.secrets) & set(self.environment):
            raise UserError(f"{', '.join(sorted(both))}: named as a secret and given a value; name it among the secrets only")
        object.__setattr__(self, "folder", Path(self.folder).expanduser().absolute())
        object.__setattr__(self, "directory", Path(self.directory).expanduser().absolute())

    @property
    def processes(self) -> int:
        """How many ranks the job has."""
        return self.nodes * self.processes_per_node

    def argv(self) -> list[str]:
        """The command line to start: `alpaca-jax` is run by this interpreter, whatever PATH says on a worker."""
        program, *arguments = self.command
        return [sys.executable, "-m", "alpaca_jax", *arguments] if program == "alpaca-jax" else [program, *arguments]

    def check_options(self, known: Mapping[str, Any] | tuple[str, ...], backend: str) -> None:
        """Raises a UserError for an option that the backend doesn't have."""
        for option in self.options:
            if option not in known:
                has = f"it has: {', '.join(known)}" if known else "it has none"
                raise UserError(f"{option!r} is not an option of {backend}{suggestion(option, known)} ({has})")

    def check_secrets(self) -> None:
        """Raises a UserError that names the secrets that are not set here, where the job is launched."""
        missing = [name for name in self.secrets if not os.environ.get(name)]
        if missing:
            raise UserError(f"the job {self.name} needs {', '.join(missing)}, not set here: export {missing[0]}=... before the launch")


class Tenure(enum.Enum):
    """Whether a job keeps its machines after an attempt: only then can the next attempt run on them."""

    stays = "stays"
    ends = "ends"  # soon: the job must queue itself again
    requeued = "requeued"  # somebody else has queued it again


@dataclasses.dataclass(frozen=True)
class Status:
    """What a job is doing now."""

    state: State
    id: str | None = None  # the backend's own, such as Slurm's number
    attempt: int | None = None  # number of the newest, from 0
    exit_code: int | None = None
    reason: str = ""  # in words, if there is one


class Backend(Protocol):
    """What starts jobs somewhere. Their logs are plain files in FOLDER/logs, whatever the backend."""

    def check(self, job: Job) -> None:
        """Raises a UserError for whatever would make the job fail, before anything is queued."""

    def submit(self, job: Job) -> None:
        """Checks the job, writes FOLDER/job.json and starts or queues it; it outlives the caller."""

    def state(self, folder: Path) -> Status:
        """Returns the status of the job in `folder`."""

    def cancel(self, folder: Path) -> None:
        """Ends the job in `folder`; returns once nothing of it is left."""


def restartable(code: int) -> bool:
    """True for the exit codes that a restart can fix: 128 and above, except Ctrl-C's 130."""
    return code >= 128 and code != 130


def saved(code: int) -> bool:
    """True for the exit code of a rank that has saved its state and asks to be started again."""
    return code == Restart.exit_code


def now() -> str:
    """Returns the time in UTC, in ISO 8601 with milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def is_true(options: Mapping[str, Any], name: str) -> bool:
    """True if the option is set to true, as a value or as a word."""
    return str(options.get(name)).lower() == "true"


def clean_environment() -> dict[str, str]:
    """Returns this process's environment without an outer launcher's variables about ranks."""
    return {name: value for name, value in os.environ.items() if not re.fullmatch(OWN_VARIABLES, name)}
