"""A command as a process of its own: how long it took, until its bytes were on the disk too, and the most memory it held."""

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
    """What a command cost. `peak` counts bytes of resident memory at its highest, pages of files it had mapped among them."""

    seconds: float  # until it ended
    synced: float  # until what it wrote was on the disk too
    peak: int


def run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] = OFFLINE) -> Spent:
    """Runs a command that writes into `folder`; exits with the last lines it wrote where it fails.

    The kernel counts the memory of this process, as it stood at the fork, as the child's: keep this one small.
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
    """Returns when all that was written to the disk of `folder` is there."""
    if sys.platform == "linux":
        subprocess.run(["sync", "--file-system", str(folder)], check=True)
    else:
        os.sync()
