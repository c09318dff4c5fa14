"""Where one job stands, asked while its supervisor may be beginning or ending at this very moment."""

import datetime
from pathlib import Path

from alpaca_jax.cluster import record
from alpaca_jax.cluster.job import Backend, State, Status

BEGINS_SECONDS = 60.0  # from job.json to a supervisor that has written itself into it


def of(backend: Backend, folder: Path) -> Status:
    """Returns the status of the job in `folder`; `lost` only where a second look says so too, and it isn't just being started."""
    status = backend.state(folder)
    if status.state is not State.lost:
        return status
    # The supervisor may have written the end, and ended, between the two things that the backend has looked at.
    status = backend.state(folder)
    if status.state is State.lost and (found := record.read(folder)).state is State.queued and found.launcher is None:
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(found.queued)
        if age.total_seconds() < BEGINS_SECONDS:
            return Status(State.queued, status.id, status.attempt, None, "is being started")
    return status
