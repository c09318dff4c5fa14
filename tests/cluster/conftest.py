"""Jobs whose ranks are small scripts without JAX."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alpaca_jax.cluster.job import Job

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
rank, attempt = int(os.environ["ALPACA_JAX_PROCESS"]), int(os.environ["ALPACA_JAX_ATTEMPT"])
processes, folder = int(os.environ["ALPACA_JAX_PROCESSES"]), Path(sys.argv[1])
"""


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[..., Job]:
    """Creates a job whose ranks run a few lines of Python that can use `rank`, `attempt`, `processes` and `folder`."""

    def make(lines: str, processes: int = 2, **rest) -> Job:
        folder = rest.pop("folder", tmp_path / "run")
        script = tmp_path / "worker.py"
        script.write_text(PRELUDE + lines)
        shape = {"processes_per_node": processes} if "nodes" not in rest else {}
        return Job(folder=folder, command=(sys.executable, str(script), str(folder)), name="job", **shape, **rest)

    return make
