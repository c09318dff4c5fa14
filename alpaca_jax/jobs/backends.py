"""The backends by the names that job.json and `hydra.launcher.backend` have for them."""

from collections.abc import Callable

from alpaca_jax.cluster.job import Backend
from alpaca_jax.cluster.local import Local
from alpaca_jax.cluster.slurm import Slurm
from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError

BACKENDS: dict[str, Callable[[], Backend]] = {"local": Local, "slurm": Slurm}


def backend(name: str) -> Backend:
    """Returns the backend of that name; a UserError names those that there are."""
    if name not in BACKENDS:
        raise UserError(f"{name!r} is not a backend{suggestion(name, BACKENDS)} (there are: {', '.join(BACKENDS)})")
    return BACKENDS[name]()
