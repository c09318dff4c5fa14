"""Who leads, who goes first, and what the processes agree on."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np


def is_lead() -> bool:
    """True in the one process that writes files and talks to the user."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """True in every process if `flag` is in one of them; each has to call it, between the same two steps."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(flag)).any())


@contextlib.contextmanager
def lead_first(name: str) -> Iterator[None]:
    """A context that the first process enters and leaves before the others enter: for what is built once on a disk that they share.

    Where the first one fails, the others go on, and meet what it has met.
    """
    if jax.process_count() == 1:
        yield
        return
    from jax.experimental import multihost_utils

    if is_lead():
        try:
            yield
        finally:
            multihost_utils.sync_global_devices(name)
    else:
        multihost_utils.sync_global_devices(name)
        yield
