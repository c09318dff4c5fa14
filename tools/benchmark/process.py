"""A command in its own process: its time until it ended and until its bytes were on disk, and its peak memory."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


class Spent(NamedTuple):
    """The cost of a command. `peak` is the peak resident memory in bytes, including pages of mapped files."""

    seconds: float  # until it ended
    synced: float  # until its output was on disk too
    peak: int


def run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] = OFFLINE) -> Spent:
    """Runs a command that writes into `folder`; if it fails, exits with its last lines.

    The kernel counts the memory of this process at the fork as the child's: keep this process small.
    """
    sync(folder)
    words, settings = [str(word) for word in command], {**os.environ, **environment}
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, env=settings)
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.perf_counter()
        sync(folder)
        synced = time.perf_counter()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            end = said.read().decode(errors="replace")[-3000:]
            raise SystemExit(f"{' '.join(words)} ended with {process.returncode}:\n{end}")
    return Spent(ended - start, synced - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def sync(folder: Path) -> None:
    """Returns when everything written to the file system of `folder` is on disk."""
    if sys.platform == "linux":
        subprocess.run(["sync", "--file-system", str(folder)], check=True)
    else:
        os.sync()
