"""Child processes: bound to the life of their parent, ended politely first and then for good."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1
# What a child runs before it becomes its command: it binds itself as `bind` does, with as few imports as possible since every start waits
# for it. A preexec_fn would be unsafe beside threads.
_BIND_AND_BECOME = """import ctypes, os, sys
parent, death_signal, niceness, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(death_signal))
if os.getppid() != int(parent):
    sys.exit(137)
os.nice(int(niceness))
os.execvp(command[0], command)
"""


def start(command: Sequence[str], death_signal: int = signal.SIGTERM, niceness: int = 0, **options: Any) -> subprocess.Popen[bytes]:
    """Starts `command` in a process group of its own, so that Ctrl-C in a terminal reaches the parent alone.

    When the thread that calls this ends, be it by SIGKILL, the kernel sends `death_signal` to the command (on Linux; elsewhere nothing
    does). `options` are Popen's; there is no standard input by default.
    """
    bound = [sys.executable, "-IS", "-c", _BIND_AND_BECOME, str(os.getpid()), str(int(death_signal)), str(niceness), *command]
    return subprocess.Popen(bound, process_group=0, **{"stdin": subprocess.DEVNULL, **options})


def bind(parent: int, death_signal: int) -> None:
    """Has the kernel send `death_signal` to this process when its parent ends, however that ends (on Linux; elsewhere does nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(128 + signal.SIGKILL)


def detach(command: Sequence[str], log: Path, is_up: Callable[[], bool], seconds: float, **options: Any) -> bool:
    """Starts `command` in a session of its own, where it outlives this process; returns whether `is_up()` came true within `seconds`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options)
    threading.Thread(target=process.wait, daemon=True).start()  # else it would stay a zombie of a caller that lives longer
    deadline = time.monotonic() + seconds
    while not is_up():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def end(process: subprocess.Popen[bytes] | psutil.Process, seconds: float) -> bool:
    """Sends SIGTERM and, `seconds` later, SIGKILL; returns once the process has ended: whether SIGTERM was enough."""
    process.terminate()
    try:
        process.wait(seconds)
    except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
        process.kill()
        process.wait()
        return False
    return True


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills the process, which leads a group, and all that is left of the group, even where the process itself has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM where only zombies are left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path, lines: int) -> str:
    """Returns the last lines of a child's log, indented, for an error message."""
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:]) or "  (none)"
