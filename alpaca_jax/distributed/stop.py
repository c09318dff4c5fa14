"""A wish to stop, from a signal or from the cloud, on any process: all stop after the same step."""

import signal
from types import FrameType

from alpaca_jax.distributed import membership
from alpaca_jax.distributed.processes import any_process


class StopSignals:
    """A context in which SIGINT, SIGTERM and SIGUSR1 ask for a stop after the step at hand; a second SIGINT stops at once.

    `received` is the number of the signal that asked, in every process once all have agreed, or None; `why` says it in words. Leaving
    the context restores the handlers that were there.
    """

    WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: int | None = None
        self.why: str | None = None
        self._asked = self._agreed = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in self.WATCHED:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def now(self) -> bool:
        """Whether to stop here; every process has to call it after every step, and it is true in all of them after the same one."""
        line = membership.line()
        if line is None:
            return any_process(self.why is not None)
        if self.why is not None and not self._asked:
            self._asked = True
            line.ask_to_stop(self.why, self.received)
        if not line.stop_now():
            return False
        assert line.stop is not None
        self.received, self.why, self._agreed = line.stop["signal"], line.stop["stop"], True
        return True

    @property
    def interrupted(self) -> bool:
        """Whether it is a Ctrl-C that stops; among several processes, one that all have agreed on."""
        return self.received == signal.SIGINT and (self._agreed or membership.line() is None)

    def ask(self, why: str) -> None:
        """Asks for a stop as a signal does, from any thread."""
        self.why = self.why or why

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number
        self.why = signal.Signals(number).name
