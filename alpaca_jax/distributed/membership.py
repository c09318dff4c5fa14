"""This process's part in its job once it has joined: it is watched while it works, and its peers always learn how it ended."""

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

LEAVE_HOURS = 2.0  # the lead may have an export to write while the others wait for the end
UNWIND_SECONDS = 8.0  # for the `finally` clauses of a process that has failed; one may wait for a peer that never comes
NEWS_SECONDS = {True: 3.0, False: 1.0}  # an error from JAX is usually the echo of a peer's end
_CONNECTION = ("UNAVAILABLE:", "DEADLINE_EXCEEDED:", "Gloo ", "NCCL ", "Connection reset by peer", "Connection closed by peer")


@dataclasses.dataclass
class Membership:
    """This process in its job. `line` is None if the process is alone, or if somebody else has initialized JAX's distributed service."""

    place: Place
    config: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    members: tuple[Facts, ...] = ()
    line: Line | None = None
    watchdog: Watchdog | None = None
    failed: int | None = None  # the code that this process will exit with

    @property
    def who(self) -> str:
        """Rank and host, for messages."""
        return f"rank {self.place.rank} on {self.place.host}"

    @contextlib.contextmanager
    def watched(self, stop: Any) -> Iterator[None]:
        """A context for the loop, with the watchdog and the cloud's notices; an exception in it ends the whole job."""
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
        """Prints what failed here, with its traceback, and tells the others. The process ends soon, even if it hangs."""
        if self.line is None or self.failed is not None:
            return
        code = exit_code(error)
        expected = isinstance(error, (UserError, Restart, Lost, KeyboardInterrupt))
        if not expected and self._is_an_echo(error):
            self._end(self.line.news["code"] if self.line.news else code)
        self.line.failing, self.failed = True, code  # from here on another process's end doesn't end this one
        if not expected:
            traceback.print_exception(error)
        text = str(error) if expected and str(error) else traceback.format_exception_only(error)[-1].strip()
        print(f"alpaca-jax: {self.who}: {text}", file=sys.stderr, flush=True)
        self.line.fail(code, text)
        threading.Thread(target=self._end_later, args=(code,), daemon=True).start()

    def end(self) -> NoReturn:
        """Ends this process, which has failed, without the interpreter's own exit, in which JAX would wait for the others."""
        assert self.failed is not None
        assert self.line is not None
        self.line.linger()
        self._end(self.failed)

    def leave(self) -> None:
        """Returns once every process is done, in an order in which no process takes another's end for a loss."""
        if self.line is None:
            return
        self.line.leave(3600 * LEAVE_HOURS)
        try:
            jax.distributed.shutdown()
        except jax.errors.JaxRuntimeError as error:  # all have said that they are done: the job did not fail
            print(f"alpaca-jax: {self.who}: all processes are done, but JAX's shutdown failed: {error}", file=sys.stderr, flush=True)
        self.line.close()
        self.line = None

    def _is_an_echo(self, error: BaseException) -> bool:
        """Whether this error is the consequence of another process's failure, which JAX may report here as an error of its own."""
        assert self.line is not None
        from_jax = isinstance(error, jax.errors.JaxRuntimeError) or _is_of_a_connection(error)
        deadline = time.monotonic() + NEWS_SECONDS[from_jax]
        while self.line.news is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.line.news is None:
            return False
        if not from_jax:
            traceback.print_exception(error)
        time.sleep(UNWIND_SECONDS)  # before that, the line's thread ends the process
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
    """Makes this the process's membership; there is one at a time, as in JAX."""
    global _current
    _current = membership


def line() -> Line | None:
    """Returns the line to the other processes, None if there is none."""
    return None if _current is None else _current.line


def beat(step: int) -> None:
    """Tells the watchdog, if there is one, that a step is done."""
    if _current is not None and _current.watchdog is not None:
        _current.watchdog.beat(step)


def exit_code(error: BaseException) -> int:
    """Returns the exit code for `error`, which launchers rely on."""
    if isinstance(error, (UserError, Restart, Lost)):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if disk_is_full(error):
        return UserError.exit_code
    return Lost.exit_code if _is_of_a_connection(error) else 1


def _is_of_a_connection(error: BaseException) -> bool:
    """Whether the error is how the runtime, its service or our line reports a peer's end; gloo raises a ValueError."""
    from_runtime = isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and any(word in str(error) for word in _CONNECTION)
    return from_runtime or isinstance(error, Closed)
