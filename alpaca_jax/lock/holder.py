"""Who holds a lock, as the lock's file says it."""

import dataclasses
import datetime
import functools
import json
import os
import socket
import uuid
from pathlib import Path
from typing import Any

import psutil

from alpaca_jax.errors import UserError

JOB, ATTEMPT = "ALPACA_JAX_JOB", "ALPACA_JAX_ATTEMPT"  # set by a launcher: the same job, the number of its start
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that writes into a folder.

    `created` tells it from a later process with the same id, and `boot` a host from what it was before its last start.
    """

    verb: str
    host: str
    pid: int
    created: float
    boot: str
    since: str
    job: str
    attempt: int
    token: str

    @classmethod
    def this(cls, verb: str) -> "Holder":
        """This process, as it is now."""
        return cls(
            verb=verb,
            host=socket.gethostname(),
            pid=os.getpid(),
            created=psutil.Process().create_time(),
            boot=_boot(),
            since=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            job=_job(),
            attempt=_attempt(),
            token=uuid.uuid4().hex,
        )

    @classmethod
    def read(cls, content: bytes) -> "Holder | None":
        """The holder that a lock's file names; None where it is empty or torn: nobody has got as far as to name itself."""
        try:
            value: Any = json.loads(content)
            known = {field.name: type(value[field.name]) for field in dataclasses.fields(cls)}
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        expected = {field.name: field.type for field in dataclasses.fields(cls)}
        return cls(**{name: value[name] for name in known}) if known == expected and 0 < value["pid"] < 1 << 31 else None

    def content(self, beat: int) -> bytes:
        """What the lock's file says at the holder's `beat`-th sign of life; of the same length each time."""
        return (json.dumps(dataclasses.asdict(self) | {"beat": f"{beat:012d}"}) + "\n").encode()

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process of this host since its last start, so that its id can be looked up."""
        return self.host == socket.gethostname() and self.boot == _boot()

    @property
    def same_kernel(self) -> bool:
        """Whether this kernel knows of its file locks: a process of this host, or of another container on it."""
        return self.boot == _boot()

    @property
    def alive(self) -> bool:
        """Whether the process, which is `here`, still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def precedes(self, other: "Holder") -> bool:
        """Whether `other` is a later attempt of the same job, whose launcher starts one once the last has ended."""
        return bool(self.job) and self.job == other.job and self.attempt < other.attempt

    def refusal(self, written: Path, key: str, file: Path) -> UserError:
        """What a process is told that would write there too."""
        remedy = "wait for it, end it"
        if not self.here:
            remedy = f"wait for it, end it there (if that host is gone for good, delete {file})"
        return UserError(
            f"{written} is being written by `alpaca-jax {self.verb}` (process {self.pid} on {self.host}, since {self.since}): "
            f"{remedy}, or give another {key}="
        )


@functools.cache
def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _job() -> str:
    """What stays the same over the starts of a job: its launcher's word for it, else that of the cluster's scheduler; "" without either."""
    if JOB in os.environ:
        return os.environ[JOB]
    known = (name for name in ("SLURM_JOB_ID", "JOBSET_NAME") if name in os.environ)
    return next((f"{name}={os.environ[name]}" for name in known), "")


def _attempt() -> int:
    by_slurm = JOB not in os.environ and "SLURM_JOB_ID" in os.environ
    number = os.environ.get("SLURM_RESTART_COUNT" if by_slurm else ATTEMPT, "")
    return int(number) if number.isdecimal() else 0
