"""The job of one or many processes: who leads, who goes first, what they agree on, and when to stop."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

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


class StopSignals:
    """A context in which SIGINT, SIGTERM and SIGUSR1 ask for a stop after the step at hand; a second SIGINT stops at once.

    `received` is the signal's number, or None. Leaving the context restores the handlers that were there.
    """

    WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        # jax.distributed installs its own SIGTERM notifier at initialize; ours comes after it, and so replaces it.
        for number in self.WATCHED:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number
