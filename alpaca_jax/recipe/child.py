"""A stage's process: started so that it can't outlive the recipe, interrupted once, its memory watched."""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import psutil

from alpaca_jax import children

SAMPLE_SECONDS = 0.5
GRACE_SECONDS = 30.0  # a training stage saves its state on Ctrl-C before it leaves


def run(command: Sequence[str], held: int, sampled: Callable[[float, int], None]) -> tuple[int, bool]:
    """Runs `command` to its end and returns (exit code, whether a SIGTERM asked us to stop); a signal's code is 128 + its number.

    `sampled(seconds, bytes)` is called every half second with the memory (resident, summed over the recipe's process
    tree). The child keeps the file descriptor `held`, of the recipe's lock, open for as long as it lives, so that on systems other than
    Linux, where it may outlive a killed recipe, it never meets a second one. KeyboardInterrupt is raised again once the child is gone.
    """
    start = time.monotonic()
    child = children.start(command, pass_fds=(held,))
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
        children.kill_group(child)  # and what is left of the stage, such as a server whose parent crashed
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
def _passing_on_sigterm(child: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
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


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    """Asks the child to stop and waits for it; a second Ctrl-C, or no answer, ends the waiting."""
    child.send_signal(signal.SIGINT)
    with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
