"""A request to stop, from a signal or from the cloud, in any process: all processes stop after the same step."""

import signal
from types import FrameType

from alpaca_jax.distributed import membership
from alpaca_jax.distributed.processes import any_process


class StopSignals:
    """A context in which SIGINT, SIGTERM and SIGUSR1 ask for a stop after the current step; a second SIGINT stops at once.

    `received` is the number of the signal that asked, or None, and `why` the reason in words; both are the same in every process once all
    have agreed. Leaving the context restores the earlier handlers.
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
        """Whether to stop here. Every process has to call it after every step; it is true in all of them after the same step."""
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
        """Whether Ctrl-C is the reason; among several processes, once all have agreed on it."""
        return self.received == signal.SIGINT and (self._agreed or membership.line() is None)

    def ask(self, why: str) -> None:
        """Asks for a stop, as a signal does; may be called from any thread."""
        self.why = self.why or why

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number
        self.why = signal.Signals(number).name
