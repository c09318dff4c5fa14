"""Which process is the lead, who goes first, and what the processes agree on."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


def is_lead() -> bool:
    """True in the lead, process 0: the one that writes files and talks to the user."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """True in every process if `flag` is true in any; all have to call it, between the same two steps."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def from_lead(value: dict[str, Any]) -> dict[str, Any]:
    """Returns the lead's mapping of plain values in every process, to the last bit; all have to call it, between the same two steps."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    text = json.dumps(value).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    own = np.frombuffer(text.ljust(size)[:size], np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(own).astype(np.uint8).tobytes())


def array_from_lead(array: np.ndarray) -> np.ndarray:
    """Returns the lead's array in every process; all have to call it at the same point, each with an array of that shape and dtype."""
    if jax.process_count() == 1:
        return array
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))


@contextlib.contextmanager
def lead_first(name: str) -> Iterator[None]:
    """A context that the lead enters and leaves before the others enter it: for what is built once on a shared disk.

    If the lead fails in it, the others enter nevertheless, and meet the same problem.
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
