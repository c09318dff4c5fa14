"""Whose jobs these are: what another user, or another machine, has launched is shown, and acted on only where the user trusts it."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from alpaca_jax.cluster import record, seal
from alpaca_jax.cluster.job import Job
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import sweep
from alpaca_jax.jobs.sweep import Entry, Sweep

SHOWN = 8  # jobs


def check(jobs: Sweep, entries: Sequence[Entry], action: str) -> None:
    """Raises a UserError that shows what would run, where a job was not launched by this user on this machine."""
    foreign = [(entry, why) for entry in entries if (why := doubt(jobs, entry))]
    if not foreign:
        return
    lines = [f"action={action} would run and end what these jobs say, and you didn't launch them here:"]
    for entry, why in foreign[:SHOWN]:
        lines += [f"job {entry.name} in {entry.job.folder} ({why}):", *(f"  {line}" for line in described(jobs.backend, entry.job))]
    more = [f"and {len(foreign) - SHOWN} more"] if len(foreign) > SHOWN else []
    raise UserError("\n  ".join([*lines, *more]) + "\nread that, and give trust=true if you would launch it yourself")


def doubt(jobs: Sweep, entry: Entry) -> str:
    """Returns why a job may be somebody else's, "" for one that this user has launched with this very command."""
    files = [] if jobs.single else [(jobs.folder / sweep.FILE, entry.seal, record.launched(jobs.backend, entry.job))]
    if record.exists(entry.job.folder):
        written = record.read(entry.job.folder)
        files.append((entry.job.folder / record.FILE, written.seal, record.launched(written.backend, written.job)))
    for file, made, launched in files:
        if (owner := _owner(file)) is not None:
            return f"{file.name} belongs to {owner}"
        if not seal.holds(made, launched):
            return f"{file.name} was {'changed, or written by somebody else' if made else 'written by an older version, or elsewhere'}"
    return ""


def described(backend: str, job: Job) -> list[str]:
    """Returns what a launch of the job would do, line by line."""
    lines = [f"command: {shlex.join(job.command)}", f"in: {job.directory}", f"backend: {backend}"]
    for name, values in (("environment", job.environment), ("options", job.options)):
        given = " ".join(f"{key}={shlex.quote(str(value))}" for key, value in values.items() if value is not None)
        lines += [f"{name}: {given}"] if given else []
    return [*lines, *([f"secrets that it is given: {', '.join(job.secrets)}"] if job.secrets else [])]


def _owner(file: Path) -> str | None:
    """The other user to whom a file belongs; None for one's own."""
    state = file.stat()
    return None if state.st_uid == os.getuid() else f"user {state.st_uid}"
