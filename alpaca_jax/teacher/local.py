"""Our own server as a teacher: started as a process of its own, waited for, and ended by its id."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from alpaca_jax import children
from alpaca_jax.errors import Lost, UserError
from alpaca_jax.rundir import read_json
from alpaca_jax.teacher.config import TeacherConfig

GRACE_SECONDS = 10.0  # for the server to end in
TAIL = 15  # lines of its log in an error


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where a teacher listens, and the name of its model."""

    base_url: str | None
    model: str


@contextlib.contextmanager
def answering(teacher: TeacherConfig, max_length: int, log: Path, notice: Callable[[str], None]) -> Iterator[Endpoint]:
    """Where the teacher listens; our own is started for it, as in `serving`."""
    if teacher.source is None:
        yield Endpoint(teacher.base_url, str(teacher.model))
    else:
        with serving(teacher, max_length, log, notice) as endpoint:
            yield endpoint


@contextlib.contextmanager
def serving(
    teacher: TeacherConfig, max_length: int, log: Path, notice: Callable[[str], None], patience: float = 600.0
) -> Iterator[Endpoint]:
    """The endpoint of `teacher.source` served by a child process while the context lasts; its output goes to `log`.

    `max_length` is the tokens of the longest prompt with its answer, `patience` the seconds the server has to get ready.

    A server that dies raises Lost (UserError where it blames the user), with the last lines it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="alpaca_jax-") as folder:
        ready = Path(folder) / "ready.json"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            # Ctrl-C reaches this process alone, which ends the server once its answers are in.
            process = children.start(_command(teacher, max_length, ready), stdout=output, stderr=subprocess.STDOUT)
        try:
            notice(f"teacher: starting {teacher.source} on this machine (log: {log})")
            _wait(process, ready, log, patience)
            served = read_json(ready)
            yield Endpoint(served["base_url"], teacher.model or served["model"])
        except Lost as error:
            with contextlib.suppress(subprocess.TimeoutExpired):  # its connections end a moment before it does
                process.wait(1.0)
            if process.poll() is None:
                raise
            raise Lost(f"{_death(process, log)}\n{error}") from None
        finally:
            children.end(process, GRACE_SECONDS)


def _command(teacher: TeacherConfig, max_length: int, ready: Path) -> list[str]:
    escaped = str(teacher.source).replace("\\", "\\\\").replace("'", "\\'")
    options = {
        "model.source": f"'{escaped}'",
        "port": 0,
        "ready": f"'{ready}'",
        "slots": teacher.slots,
        "max_length": max_length,
        "parent": os.getpid(),  # it ends with this process where the kernel doesn't see to that (macOS)
    }
    return [sys.executable, "-m", "alpaca_jax", "serve", *(f"{name}={value}" for name, value in options.items())]


def _wait(process: subprocess.Popen[bytes], ready: Path, log: Path, patience: float) -> None:
    limit = time.monotonic() + patience
    while not ready.exists():
        if process.poll() is not None:
            problem = UserError if process.returncode == UserError.exit_code else Lost
            raise problem(_death(process, log))
        if time.monotonic() > limit:
            raise UserError(f"the local teacher isn't ready after {patience:.0f} s; its last words (in {log}):\n{children.tail(log, TAIL)}")
        time.sleep(0.1)


def _death(process: subprocess.Popen[bytes], log: Path) -> str:
    return f"the local teacher ended with exit code {process.returncode}; its last words (in {log}):\n{children.tail(log, TAIL)}"
