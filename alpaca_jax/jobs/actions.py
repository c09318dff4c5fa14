"""Ending the jobs of a sweep, and going on with those that didn't come to their end."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from alpaca_jax.cluster import record
from alpaca_jax.cluster.job import State
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import queue, status
from alpaca_jax.jobs.sweep import Entry, Sweep

AT_ONCE = 8  # jobs that are being ended at a time: each may save first


def cancel(found: Sweep) -> list[str]:
    """Ends every job that runs or is queued, by its backend's own id; returns their names once nothing of them is left."""
    ended = [] if found.single else queue.cancel(found.folder)  # first what would start the next one
    rows = [row for row in status.look(found) if record.exists(row.entry.job.folder)]
    active = [row.entry for row in rows if not row.status.state.final]
    lost = [row.entry for row in rows if row.status.state is State.lost]  # its machines may still be held
    backend = found.runs_on()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda entry: backend.cancel(entry.job.folder), [*active, *lost]):
            pass
    return [*ended, *(entry.name for entry in active)]


def resume(found: Sweep) -> list[str]:
    """Starts the jobs again that failed, were cancelled, got lost or never began, from their last checkpoints; returns their names.

    All of them are checked before the first is started.
    """
    rows = status.look(found)
    if not found.single and queue.read(found.folder).alive is not None:
        raise UserError(f"the sweep in {found.folder} is still starting jobs; cancel it, or wait until it has begun them all")
    names = [row.entry.name for row in rows if row.status.state.final and row.status.state is not State.done]
    check(found, [found.named(name) for name in names])
    if found.single and names:
        found.runs_on().submit(found.entries[0].job)
    else:
        queue.start(found, names)
    return names


def check(found: Sweep, entries: Sequence[Entry]) -> None:
    """Raises a UserError that names each job which its backend would refuse, and why."""
    backend = found.runs_on()
    complaints: dict[str, list[str]] = {}
    for entry in entries:
        try:
            backend.check(entry.job)
        except UserError as error:
            complaints.setdefault(str(error), []).append(entry.name)
    if complaints:
        lines = [f"job {', '.join(names)}: {complaint}" for complaint, names in complaints.items()]
        raise UserError("\n  ".join(["nothing was started:", *lines]))


def active(found: Sweep, entry: Entry) -> bool:
    """True where this very job is queued or runs already."""
    folder = entry.job.folder
    if not record.exists(folder) or record.read(folder).job.command != entry.job.command:
        return False
    return not status.look(found, [entry])[0].status.state.final
