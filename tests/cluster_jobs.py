"""Helpers for tests of launched jobs: waiting, and listing processes."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns once `true()` is, or fails."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(0.05)


def running_below(folder: Path) -> list[psutil.Process]:
    """The running processes whose command line names `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found
