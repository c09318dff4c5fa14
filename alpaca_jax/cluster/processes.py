"""One attempt of a job on this machine: its ranks as processes, begun together and ended together."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from alpaca_jax import children
from alpaca_jax.cluster import logs
from alpaca_jax.cluster.job import Job, Tenure, clean_environment, saved
from alpaca_jax.cluster.rank import END_NOW, log_of

GRACE_SECONDS = 10.0  # from SIGTERM to SIGKILL, for the peers of a rank that has failed
TICK_SECONDS = 0.05


class LocalRanks:
    """Runs the attempts of a job on this machine; what rank 0 writes goes on to `show`."""

    def __init__(self, show: Callable[[str], None] = lambda text: None, grace: float = GRACE_SECONDS) -> None:
        self.show, self.grace = show, grace
        self._pending: list[int] = []

    def pass_on(self, number: int) -> None:
        """Has every rank get signal `number`; may be called from a signal handler."""
        self._pending.append(number)

    def run(self, job: Job, attempt: int) -> int:
        """Returns the exit code of one attempt once no process of it is left."""
        folder = logs.folder_of(job.folder, attempt)
        folder.mkdir(parents=True, exist_ok=True)
        coordinator = f"127.0.0.1:{free_port()}"
        ranks: list[subprocess.Popen] = []
        with open(folder / "launcher.log", "ab") as launcher_log:
            try:
                for rank in range(job.processes):
                    ranks.append(_start(job, attempt, rank, coordinator, log_of(folder, rank), launcher_log))
                self._wait(ranks, logs.Follower(log_of(folder, 0)))
            finally:
                _end(ranks)
        return logs.exit_code(logs.ends(folder, job.processes))

    def tenure(self) -> Tenure:
        """This machine takes nothing away from a job."""
        return Tenure.stays

    def _wait(self, ranks: list[subprocess.Popen], rank_0: logs.Follower) -> None:
        """Returns when every rank has ended. The peers of one that has failed are told to, and then made to."""
        failed = told = None  # when
        while None in [rank.poll() for rank in ranks]:
            while self._pending:
                _signal(ranks, self._pending.pop(0))
            now = time.monotonic()
            codes = [rank.returncode for rank in ranks if rank.returncode]
            if codes and failed is None:
                failed = now
            # Those of one that has saved are given the time to save.
            if failed is not None and told is None and (not all(map(saved, codes)) or now > failed + self.grace):
                _signal(ranks, signal.SIGTERM)
                told = now
            if told is not None and now > told + self.grace:
                _signal(ranks, END_NOW)
            self.show(rank_0.read())
            time.sleep(TICK_SECONDS)
        self.show(rank_0.read())


def free_port() -> int:
    """Returns a port that is free on this host now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def rank_variables(job: Job, attempt: int, coordinator: str) -> dict[str, str]:
    """Returns what every rank is told about the job; `distributed` reads it, and it wins over what a cluster says."""
    variables = {
        "ALPACA_JAX_COORDINATOR": coordinator,
        "ALPACA_JAX_PROCESSES": str(job.processes),
        "ALPACA_JAX_ATTEMPT": str(attempt),
        "PYTHONUNBUFFERED": "1",  # or a log lacks the lines before a kill
    }
    if job.processes_per_node > 1:
        variables["ALPACA_JAX_LOCAL_PROCESSES"] = str(job.processes_per_node)
    return clean_environment() | dict(job.environment) | variables


def _start(job: Job, attempt: int, rank: int, coordinator: str, log: Path, launcher_log: BinaryIO) -> subprocess.Popen:
    own = {"ALPACA_JAX_PROCESS": str(rank)}
    if job.processes_per_node > 1:
        own["ALPACA_JAX_LOCAL_PROCESS"] = str(rank)
    return children.start(
        [sys.executable, "-m", "alpaca_jax.cluster.rank", str(log), "--", *job.argv()],
        END_NOW,
        stdout=launcher_log,
        stderr=launcher_log,
        cwd=job.directory,
        env=rank_variables(job, attempt, coordinator) | own,
    )


def _signal(ranks: list[subprocess.Popen], number: int) -> None:
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            rank.send_signal(number)  # Popen sends nothing to one that it has seen end


def _end(ranks: list[subprocess.Popen]) -> None:
    """Ends what is left of the ranks at once, as where the launcher itself fails."""
    _signal(ranks, END_NOW)
    for rank in ranks:
        children.end(rank, GRACE_SECONDS)
