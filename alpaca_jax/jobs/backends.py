"""The backends, by their names in job.json and `hydra.launcher.backend`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax.cluster.gke import backend as gke
from alpaca_jax.cluster.gke import manifest as gke_manifest
from alpaca_jax.cluster.gke.backend import Gke
from alpaca_jax.cluster.job import Backend, State, Status
from alpaca_jax.cluster.local import Local
from alpaca_jax.cluster.slurm.backend import Slurm
from alpaca_jax.cluster.tpu import backend as tpu_pod
from alpaca_jax.cluster.tpu import slices as tpu_slices
from alpaca_jax.cluster.tpu.backend import TpuPod
from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError

BACKENDS: dict[str, Callable[[], Backend]] = {"local": Local, "slurm": Slurm, tpu_pod.NAME: TpuPod, gke.NAME: Gke}


def backend(name: str) -> Backend:
    """Returns the backend of that name; a UserError lists the names."""
    if name not in BACKENDS:
        raise UserError(f"{name!r} is not a backend{suggestion(name, BACKENDS)} (there are: {', '.join(BACKENDS)})")
    return BACKENDS[name]()


def nodes(name: str, options: Mapping[str, Any]) -> int:
    """Returns the nodes of a job that doesn't say: the hosts of the slices in its options, else one."""
    if name == tpu_pod.NAME:
        return tpu_slices.nodes(options)
    return (gke_manifest.nodes(options) if name == gke.NAME else None) or 1


def fetch_logs(name: str, folder: Path) -> None:
    """Restarts the process that fetches a job's logs into its folder, if its backend needs one and it has ended."""
    if name == gke.NAME:
        Gke().follow(folder)


def job_status(backend: Backend, folder: Path) -> Status:
    """Returns the status of the job in `folder`; `lost` only if a second look confirms it.

    The job's end may be written between the two things that a backend looks at: job.json and what the cluster says.
    """
    status = backend.state(folder)
    return backend.state(folder) if status.state is State.lost else status
