"""This process's part in its job, from the moment it has joined: watched while it works, and never leaving its peers in the dark."""

import contextlib
import dataclasses
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax

from alpaca_jax.distributed import metadata
from alpaca_jax.distributed.channel import Closed
from alpaca_jax.distributed.config import DistributedConfig
from alpaca_jax.distributed.environment import ATTEMPT, Place
from alpaca_jax.distributed.facts import Facts
from alpaca_jax.distributed.line import Line
from alpaca_jax.distributed.watchdog import Watchdog
from alpaca_jax.errors import Lost, Restart, UserError, disk_is_full

LEAVE_HOURS = 2.0  # rank 0 may have an export to write while the others wait for the end
UNWIND_SECONDS = 8.0  # so long `finally` clauses may take in a process that has failed; one may wait for a peer that never comes
NEWS_SECONDS = {True: 3.0, False: 1.0}  # JAX's own error is most often the echo of a peer's end
_CONNECTION = ("UNAVAILABLE:", "DEADLINE_EXCEEDED:", "Gloo ", "NCCL ", "Connection reset by peer", "Connection closed by peer")


@dataclasses.dataclass
class Membership:
    """What this process is in its job. `line` is None where it is alone, or where JAX was joined by somebody else."""

    place: Place
    config: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    members: tuple[Facts, ...] = ()
    line: Line | None = None
    watchdog: Watchdog | None = None
    failed: int | None = None  # the code that this process is going to end with

    @property
    def who(self) -> str:
        """Rank and host, for messages."""
        return f"rank {self.place.rank} on {self.place.host}"

    @contextlib.contextmanager
    def watched(self, stop: Any) -> Iterator[None]:
        """A context for the loop: the watchdog and the cloud's notices are up in it, and an exception in it ends the whole job."""
        minutes, kind = self.config.stuck_minutes, self.place.kind
        supervised = self.place.size > 1 or ATTEMPT in os.environ
        try:
            with contextlib.ExitStack() as stack:
                if minutes is not None and supervised:
                    self.watchdog = stack.enter_context(Watchdog(minutes, self.who, self._last_words))
                if self.config.maintenance or (self.config.maintenance is None and kind == "tpu"):
                    stack.enter_context(metadata.Notices(stop.ask))
                yield
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self.watchdog = None

    def fail(self, error: BaseException) -> None:
        """Says what has failed here, at once and with its traceback, and tells the others. The process ends soon even if it hangs."""
        if self.line is None or self.failed is not None:
            return
        code = exit_code(error)
        expected = isinstance(error, (UserError, Restart, Lost, KeyboardInterrupt))
        if not expected and self._is_an_echo(error):
            self._end(self.line.news["code"] if self.line.news else code)
        self.line.failing, self.failed = True, code  # from here on another's end doesn't end this one
        if not expected:
            traceback.print_exception(error)
        text = str(error) if expected and str(error) else traceback.format_exception_only(error)[-1].strip()
        print(f"alpaca-jax: {self.who}: {text}", file=sys.stderr, flush=True)
        self.line.fail(code, text)
        threading.Thread(target=self._end_later, args=(code,), daemon=True).start()

    def end(self) -> NoReturn:
        """Ends this process, which has failed: not through the interpreter's exit, where JAX would wait for the others."""
        assert self.failed is not None
        assert self.line is not None
        self.line.linger()
        self._end(self.failed)

    def leave(self) -> None:
        """Returns once every process is done, in an order in which none takes another's end for a loss."""
        if self.line is None:
            return
        self.line.leave(3600 * LEAVE_HOURS)
        try:
            jax.distributed.shutdown()
        except jax.errors.JaxRuntimeError as error:  # all have done their work and said so: the job did not fail
            print(f"alpaca-jax: {self.who}: all are done, but JAX's own end was not in order: {error}", file=sys.stderr, flush=True)
        self.line.close()
        self.line = None

    def _is_an_echo(self, error: BaseException) -> bool:
        """Whether another process failed first, which may come to light as an error of JAX here; then that one's line is what counts."""
        assert self.line is not None
        from_jax = isinstance(error, jax.errors.JaxRuntimeError) or _is_of_a_connection(error)
        deadline = time.monotonic() + NEWS_SECONDS[from_jax]
        while self.line.news is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.line.news is None:
            return False
        if not from_jax:
            traceback.print_exception(error)
        time.sleep(UNWIND_SECONDS)  # the line's thread ends the process before
        return True

    def _last_words(self, code: int, text: str) -> None:
        if self.line is not None:
            self.line.fail(code, text)
            self.line.linger()

    def _end_later(self, code: int) -> None:
        time.sleep(UNWIND_SECONDS)
        self._end(code)

    @staticmethod
    def _end(code: int) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


_current: Membership | None = None


def set_current(membership: Membership | None) -> None:
    """Makes this the process's membership; there is one at a time, as JAX has it."""
    global _current
    _current = membership


def line() -> Line | None:
    """Returns the line to the other processes, or None where there is none."""
    return None if _current is None else _current.line


def beat(step: int) -> None:
    """Tells the watchdog, where there is one, that a step has been taken."""
    if _current is not None and _current.watchdog is not None:
        _current.watchdog.beat(step)


def exit_code(error: BaseException) -> int:
    """Returns the code that a process ends with because of `error`: what launchers go by."""
    if isinstance(error, (UserError, Restart, Lost)):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if disk_is_full(error):
        return UserError.exit_code
    return Lost.exit_code if _is_of_a_connection(error) else 1


def _is_of_a_connection(error: BaseException) -> bool:
    """Whether the error is the runtime's, its service's or our line's word for a peer's end; gloo's comes as a ValueError."""
    from_runtime = isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and any(word in str(error) for word in _CONNECTION)
    return from_runtime or isinstance(error, Closed)
