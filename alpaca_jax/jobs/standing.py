"""Where one job stands, asked while it may be ending at this very moment."""

from pathlib import Path

from alpaca_jax.cluster.job import Backend, State, Status


def of(backend: Backend, folder: Path) -> Status:
    """Returns the status of the job in `folder`; `lost` only where a second look says so too.

    Its end may have been written between the two things that a backend looks at: job.json and what the cluster says.
    """
    status = backend.state(folder)
    return backend.state(folder) if status.state is State.lost else status
