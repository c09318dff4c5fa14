"""The backend of this machine: a job's supervisor is a detached process, or runs in the foreground of a terminal."""

import datetime
import sys
from pathlib import Path

from alpaca_jax import children
from alpaca_jax.cluster import logs, record
from alpaca_jax.cluster.job import Job, State, Status, clean_environment
from alpaca_jax.cluster.processes import GRACE_SECONDS, LocalRanks
from alpaca_jax.cluster.record import Record
from alpaca_jax.cluster.supervise import say, show, supervise
from alpaca_jax.errors import UserError

NAME = "local"
START_SECONDS = 30.0
BEGIN_SECONDS = 60.0  # until a supervisor has written itself into a new job.json


class Local:
    """Jobs on this machine, each with one supervising process, whose end ends its ranks."""

    def check(self, job: Job) -> None:
        """Raises a UserError for a job that can't run here or is running already."""
        job.check_options((), "the local backend")
        job.check_secrets()
        if job.nodes != 1:
            raise UserError(f"{job.nodes} nodes: this machine is one; give processes_per_node=, or another backend")
        if job.time_limit is not None:
            raise UserError("time_limit: jobs on this machine have no time limit; leave it out")
        record.check_not_active(self, job.folder)

    def submit(self, job: Job) -> None:
        """Starts the job and returns once its supervisor runs; does nothing for a job that is done."""
        if self._prepare(job):
            start(job)

    def run(self, job: Job) -> int:
        """Runs the job in the foreground, with the lead's output on the terminal; returns its exit code."""
        if not self._prepare(job):
            say(record.done_notice(job.folder))
            return 0
        return self.supervise(job.folder)

    def supervise(self, folder: Path) -> int:
        """Supervises the job in `folder`, with the lead's output on the terminal; returns its exit code."""
        return supervise(folder, LocalRanks(show=show))

    def state(self, folder: Path) -> Status:
        """Returns what job.json says; `lost` if the job should be running but its supervisor, on this host, has ended."""
        job_record = record.read(folder)
        if gone := not job_record.state.final and _gone(job_record):
            job_record = record.read(folder)  # its end may have been written between the two looks
        if gone and not job_record.state.final:
            return job_record.status(
                State.lost, "its launcher was killed, and its ranks with it; launch it again to continue from the last checkpoint"
            )
        return job_record.status()

    def cancel(self, folder: Path, grace: float = GRACE_SECONDS * 3) -> None:
        """Has the job save and leave, and kills it after `grace` seconds; returns once nothing of it is left."""
        launcher = record.read(folder).launcher
        process = record.process_of(launcher)
        if process is None:
            if launcher and launcher["host"] != record.this_process()["host"]:
                raise UserError(f"the job in {folder} was launched on {launcher['host']}: cancel it there")
            return
        if not children.end(process, grace):
            record.read(folder).settle(State.cancelled, f"it had not ended {grace:.0f} s after SIGTERM and was killed")

    def _prepare(self, job: Job) -> bool:
        """Checks the job and writes its job.json; False if it is done already."""
        self.check(job)
        if record.is_done(job):
            return False
        record.renewed(NAME, job).write()
        return True


def _gone(job_record: Record) -> bool:
    """Whether a job has no supervisor any more, as far as this host can tell; a job that is just being started has none yet."""
    if job_record.launcher is None:
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(job_record.queued)
        return age.total_seconds() > BEGIN_SECONDS
    return job_record.launcher["host"] == record.this_process()["host"] and record.process_of(job_record.launcher) is None


def start(job: Job) -> None:
    """Starts the job's supervisor on this machine; it outlives the caller. A UserError if it doesn't start."""
    if not detach(job.folder, job.directory):
        raise UserError(f"the supervisor of {job.name} didn't start; see {job.folder / logs.FOLDER / logs.SUPERVISOR}")


def detach(folder: Path, directory: Path | None = None) -> bool:
    """Starts the supervisor of the job in `folder`, which outlives the caller; returns whether it runs."""
    command = [sys.executable, "-m", "alpaca_jax.cluster", "supervise", str(folder)]
    log, before = folder / logs.FOLDER / logs.SUPERVISOR, record.read(folder).launcher
    return children.detach(
        command, log, lambda: record.read(folder).launcher != before, START_SECONDS, cwd=directory, env=clean_environment()
    )
