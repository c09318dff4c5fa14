"""The backend of this machine: a job's supervisor as a detached process, or in the foreground of a terminal."""

import contextlib
import datetime
import sys
from pathlib import Path

from alpaca_jax import children
from alpaca_jax.cluster import logs, record
from alpaca_jax.cluster.job import Job, State, Status, clean_environment
from alpaca_jax.cluster.processes import GRACE_SECONDS, LocalRanks
from alpaca_jax.cluster.supervise import supervise
from alpaca_jax.errors import UserError

NAME = "local"
START_SECONDS = 30.0
BEGINS_SECONDS = 60.0  # from job.json to a supervisor that has written itself into it


class Local:
    """Jobs on this machine; each has one supervising process, whose end ends the ranks."""

    def check(self, job: Job) -> None:
        """Raises a UserError for a job that can't run here, or that runs already."""
        job.check_options((), "the local backend")
        job.check_secrets()
        if job.nodes != 1:
            raise UserError(f"{job.nodes} nodes: this machine is one; give processes_per_node=, or another backend")
        if job.time_limit is not None:
            raise UserError("time_limit: nothing limits the time of a job on this machine; leave it out")
        if record.exists(job.folder) and not self.state(job.folder).state.final:
            raise UserError(f"the job in {job.folder} is running already; cancel it first, or give another dir=")

    def submit(self, job: Job) -> None:
        """Starts the job and returns once its supervisor runs; one that is done is left alone."""
        if self._prepare(job):
            start(job)

    def run(self, job: Job) -> int:
        """Runs the job in the foreground, rank 0's lines on the terminal; returns its exit code."""
        if not self._prepare(job):
            print(f"{job.folder} is done: not started again (another dir=, or another command, is another job)", file=sys.stderr)
            return 0
        return supervise(job.folder, LocalRanks(show=_print))

    def state(self, folder: Path) -> Status:
        """Returns what job.json says, but `lost` where it says that the job runs and its supervisor has ended (asked on the same host)."""
        found = record.read(folder)
        if gone := not found.state.final and _gone(found):
            found = record.read(folder)  # its end may have been written between the two looks
        state, reason = found.state, found.reason
        if gone and not state.final:
            state, reason = State.lost, "its launcher was killed, and its ranks with it; launch it again to go on from the last checkpoint"
        attempt = found.attempts[-1].number if found.attempts else None
        return Status(state, found.id, attempt, found.exit_code, reason)

    def cancel(self, folder: Path, grace: float = GRACE_SECONDS * 3) -> None:
        """Has the job save and leave, and after `grace` seconds ends it; returns when nothing of it is left."""
        found = record.read(folder)
        process = record.process_of(found.launcher)
        if process is None:
            if found.launcher and found.launcher["host"] != record.this_process()["host"]:
                raise UserError(f"the job in {folder} was launched on {found.launcher['host']}: cancel it there")
            return
        if not children.end(process, grace):
            record.read(folder).settle(State.cancelled, f"it had not ended {grace:.0f} s after SIGTERM and was killed")

    def _prepare(self, job: Job) -> bool:
        """Checks the job and writes its job.json; False where it is done already."""
        self.check(job)
        if record.is_done(job):
            return False
        record.renewed(NAME, job).write()
        return True


def _gone(found: record.Record) -> bool:
    """Whether nothing looks after a job any more, as far as this host can tell; one that is just being started has nobody yet."""
    if found.launcher is None:
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(found.queued)
        return age.total_seconds() > BEGINS_SECONDS
    return found.launcher["host"] == record.this_process()["host"] and record.process_of(found.launcher) is None


def start(job: Job) -> None:
    """Starts the job's supervisor on this machine, where it outlives the caller; a UserError where it doesn't start."""
    if not detach(job.folder, job.directory):
        raise UserError(f"the supervisor of {job.name} didn't start; see {job.folder / logs.FOLDER / logs.SUPERVISOR}")


def detach(folder: Path, directory: Path | None = None) -> bool:
    """Starts what looks after the job in `folder`, where it outlives the caller; returns whether it runs."""
    command = [sys.executable, "-m", "alpaca_jax.cluster", "supervise", str(folder)]
    log, before = folder / logs.FOLDER / logs.SUPERVISOR, record.read(folder).launcher
    return children.detach(
        command, log, lambda: record.read(folder).launcher != before, START_SECONDS, cwd=directory, env=clean_environment()
    )


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed; rank 0's log has it too
        print(text, end="", flush=True)
