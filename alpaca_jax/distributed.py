"""The job of one or many processes: who leads, and when to stop."""

import signal
from types import FrameType

import jax


def is_lead() -> bool:
    """True in the one process that writes files and talks to the user."""
    return jax.process_index() == 0


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
