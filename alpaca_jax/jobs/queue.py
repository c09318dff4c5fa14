"""Starts the jobs of a sweep: all at once, or a limited number at a time through a process of its own that needs no terminal.

`python -m alpaca_jax.jobs.queue FOLDER` is that process. It ends once the last job has begun; each job has its own supervisor.
"""

import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from alpaca_jax import children, documents, rundir
from alpaca_jax.cluster import record
from alpaca_jax.config import configclass, parse
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import mistake, sweep
from alpaca_jax.jobs.backends import job_status
from alpaca_jax.jobs.sweep import Entry, Sweep

FILE = "queue.json"
LOG = "queue.log"
TICK_SECONDS = 0.2
START_SECONDS = 60.0
END_SECONDS = 60.0  # for a submission under way to finish


@dataclasses.dataclass
class Queue:
    """The jobs that wait for their turn, and the process that starts them."""

    waiting: list[str]
    process: dict[str, Any] | None = None
    refused: dict[str, str] = dataclasses.field(default_factory=dict)  # the backend's message for each job that it refused
    cancelled: bool = False
    stopped: str = ""  # why the rest is not started

    def write(self, folder: Path) -> None:
        """Writes queue.json."""
        rundir.write_json(folder / FILE, dataclasses.asdict(self))

    @property
    def alive(self) -> psutil.Process | None:
        """The process, None if it has ended."""
        return record.process_of(self.process)


@configclass
class _Written:
    """What queue.json holds; the fields are those of Queue."""

    waiting: list[str]
    process: record.Process | None = None
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    cancelled: bool = False
    stopped: str = ""


def read(folder: Path) -> Queue:
    """Returns the queue of a sweep, an empty one if it has none; a UserError if queue.json can't be read."""
    file = folder / FILE
    if not file.exists():
        return Queue(waiting=[])
    try:
        written = parse(_Written, documents.json_object(documents.read(file), str(file)))
    except UserError as error:
        raise UserError(f"{file}: not a queue of this version: {error}\n  delete it; the same sweep starts what is missing") from error
    fields = {field.name: getattr(written, field.name) for field in dataclasses.fields(Queue)}
    return Queue(**fields | {"process": None if written.process is None else dataclasses.asdict(written.process)})


def start(jobs: Sweep, names: Sequence[str]) -> None:
    """Submits these jobs, which were checked, or starts the process that submits them in turn."""
    if not names:
        return
    if jobs.parallel is None:
        (jobs.folder / FILE).unlink(missing_ok=True)  # left by an earlier start
        _submit(jobs, names)
        return
    Queue(waiting=list(names)).write(jobs.folder)
    command = [sys.executable, "-m", "alpaca_jax.jobs.queue", str(jobs.folder)]
    if not children.detach(command, jobs.folder / LOG, lambda: read(jobs.folder).process is not None, START_SECONDS):
        (jobs.folder / FILE).unlink()
        raise UserError(f"nothing was started: the queue of {jobs.folder} didn't start; see {jobs.folder / LOG}")


def cancel(folder: Path) -> list[str]:
    """Ends the queue of a sweep; returns the names of the jobs that will not begin."""
    queue = read(folder)
    if (process := queue.alive) is not None:
        children.end(process, END_SECONDS)
        queue = read(folder)
    if queue.cancelled or queue.stopped or not queue.waiting:
        return []
    queue.cancelled = True
    queue.write(folder)
    return queue.waiting


def serve(folder: Path) -> None:
    """Starts the waiting jobs of the sweep in `folder`, at most `parallel` at a time; returns once none waits.

    It stops where those that were started say that the rest would die of the same mistake.
    """
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    jobs, queue = sweep.read(folder), read(folder)
    queue.process = record.this_process()
    queue.write(folder)
    backend = jobs.runs_on()
    running = [entry for entry in jobs.entries if entry.name not in queue.waiting and record.exists(entry.job.folder)]
    begun: list[Entry] = []
    while queue.waiting and not stopped:
        running = [entry for entry in running if not job_status(backend, entry.job.folder).state.final]
        ended = [entry for entry in begun if entry not in running]
        if not jobs.keep_going and mistake.common(jobs, ended):
            queue.stopped = f"job {ended[0].name} died of a mistake that the rest would die of too"
            queue.write(folder)
            return
        while queue.waiting and len(running) < (jobs.parallel or len(jobs.entries)) and not stopped:
            entry = jobs.named(queue.waiting[0])
            try:
                backend.submit(entry.job)
                running.append(entry)
                begun.append(entry)
            except UserError as error:
                queue.refused[entry.name] = str(error)
            queue.waiting.pop(0)
            queue.write(folder)
        time.sleep(TICK_SECONDS)


def _submit(jobs: Sweep, names: Sequence[str]) -> None:
    backend = jobs.runs_on()
    for number, name in enumerate(names):
        try:
            backend.submit(jobs.named(name).job)
        except UserError as error:
            earlier = f"{number} of {len(names)} jobs are queued and stay queued; " if number else ""
            raise UserError(f"job {name}: {error} ({earlier}the same command submits the rest)") from error


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
