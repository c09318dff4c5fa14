"""A stage's process: started so that it can't outlive the recipe, interrupted once, its memory watched."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import psutil

SAMPLE_SECONDS = 0.5
GRACE_SECONDS = 30.0  # a training stage saves its state on Ctrl-C before it leaves
# Linux signals a process whose parent is gone, once it has asked for that (PR_SET_PDEATHSIG is 1); elsewhere the folder's lock
# alone keeps a stage that outlived a killed recipe from meeting a second one. A preexec_fn would be unsafe beside threads.
_ASK = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])"


def run(command: Sequence[str], lock: int, sampled: Callable[[float, int], None]) -> tuple[int, bool]:
    """Runs `command` to its end and returns (exit code, whether a SIGTERM asked us to stop); a signal's code is 128 + its number.

    `sampled(seconds, bytes)` is called every half second with the memory (resident, summed over the recipe's process
    tree). The child keeps the file descriptor `lock` open for as long as it lives. KeyboardInterrupt is raised again
    once the child is gone.
    """
    start = time.monotonic()
    # A process group of its own: a terminal's Ctrl-C reaches the recipe alone, which passes it on once.
    command = [sys.executable, "-IS", "-c", _ASK, str(os.getpid()), *command] if sys.platform == "linux" else list(command)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, pass_fds=(lock,))
    try:
        with _passing_on_sigterm(child) as stopping:
            while child.poll() is None:
                sampled(time.monotonic() - start, memory())
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(SAMPLE_SECONDS)
    except KeyboardInterrupt:
        _interrupt(child)
        raise
    finally:
        _end_group(child)
    sampled(time.monotonic() - start, memory())
    return (child.returncode if child.returncode >= 0 else 128 - child.returncode), stopping.is_set()


def memory() -> int:
    """Resident bytes of this process and everything below it, pages they share counted in each."""
    total = 0
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end between being listed and being asked
            total += process.memory_info().rss
    return total


@contextlib.contextmanager
def _passing_on_sigterm(child: subprocess.Popen) -> Iterator[threading.Event]:
    stopping = threading.Event()

    def pass_on(number: int, frame: FrameType | None) -> None:
        stopping.set()
        child.send_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():  # only there may Python set a handler
        yield stopping
        return
    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(child: subprocess.Popen) -> None:
    """Asks the child to stop and waits for it; a second Ctrl-C, or no answer, ends the waiting."""
    child.send_signal(signal.SIGINT)
    with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)


def _end_group(child: subprocess.Popen) -> None:
    """Ends whatever of the stage is still there, such as a server whose parent crashed."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM where only zombies are left
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
