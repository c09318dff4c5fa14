"""Cancels the jobs of a sweep, and resumes those that didn't finish."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from alpaca_jax import lock
from alpaca_jax.cluster import record
from alpaca_jax.cluster.job import State
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import queue, status, trust
from alpaca_jax.jobs.sweep import Entry, Sweep

AT_ONCE = 8  # jobs cancelled at a time: each may save first


def cancel(jobs: Sweep, trusted: bool = False) -> list[str]:
    """Ends every job that is running or queued, by its backend's own id; returns their names once nothing of them is left.

    A UserError for jobs that somebody else has launched, unless they are `trusted`: the ids in their files may be those of anything.
    """
    if not trusted:
        trust.check(jobs, jobs.entries, "cancel")
    ended = [] if jobs.single else queue.cancel(jobs.folder)  # first the process that would start the next one
    rows = [row for row in status.look(jobs) if record.exists(row.entry.job.folder)]
    active = [row.entry for row in rows if not row.status.state.final]
    lost = [row.entry for row in rows if row.status.state is State.lost]  # its machines may still be held
    backend = jobs.runs_on()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda entry: backend.cancel(entry.job.folder), [*active, *lost]):
            pass
    return [*ended, *(entry.name for entry in active)]


def resume(jobs: Sweep, trusted: bool = False) -> list[str]:
    """Restarts the jobs that failed, were cancelled, got lost or never began, from their last checkpoints; returns their names.

    All are checked before the first is started. A UserError shows the jobs that somebody else has launched, unless they are `trusted`.
    """
    if not trusted:
        trust.check(jobs, jobs.entries, "resume")
    with lock.held(jobs.folder, "", "jobs"):
        return _resume(jobs)


def _resume(jobs: Sweep) -> list[str]:
    rows = status.look(jobs)
    if not jobs.single and queue.read(jobs.folder).alive is not None:
        raise UserError(f"the sweep in {jobs.folder} is still starting jobs; cancel it, or wait until all have begun")
    names = [row.entry.name for row in rows if row.status.state.final and row.status.state is not State.done]
    check(jobs, [jobs.named(name) for name in names])
    if jobs.single and names:
        jobs.runs_on().submit(jobs.entries[0].job)
    elif names:
        jobs.sealed([jobs.named(name) for name in names])
        jobs.write()
        queue.start(jobs, names)
    return names


def check(jobs: Sweep, entries: Sequence[Entry]) -> None:
    """Raises a UserError that names each job that its backend would refuse, and why."""
    backend = jobs.runs_on()
    complaints: dict[str, list[str]] = {}
    for entry in entries:
        try:
            backend.check(entry.job)
        except UserError as error:
            complaints.setdefault(str(error), []).append(entry.name)
    if complaints:
        lines = [f"job {', '.join(names)}: {complaint}" for complaint, names in complaints.items()]
        raise UserError("\n  ".join(["nothing was started:", *lines]))


def active(jobs: Sweep, entry: Entry) -> bool:
    """True if this very job is queued or running already."""
    folder = entry.job.folder
    if not record.exists(folder) or record.read(folder).job.command != entry.job.command:
        return False
    return not status.look(jobs, [entry])[0].status.state.final
