"""One attempt of a job on this machine: its ranks are processes that start and end together."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from alpaca_jax import children
from alpaca_jax.cluster import logs
from alpaca_jax.cluster.job import Job, Tenure, clean_environment, saved
from alpaca_jax.cluster.rank import END_NOW, log_of

GRACE_SECONDS = 10.0  # from SIGTERM to SIGKILL, for the peers of a rank that has failed
TICK_SECONDS = 0.05


class RankProcess(Protocol):
    """A rank as the launcher sees it: a process here, or a connection to a worker."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...


class LocalRanks:
    """Runs the attempts of a job on this machine; `show` gets what the lead writes."""

    def __init__(self, show: Callable[[str], None] = lambda text: None, grace: float = GRACE_SECONDS) -> None:
        self.show, self.grace = show, grace
        self._pending: list[int] = []

    def pass_on(self, number: int) -> None:
        """Sends signal `number` to every rank; may be called from a signal handler."""
        self._pending.append(number)

    def run(self, job: Job, attempt: int) -> int:
        """Runs one attempt; returns its exit code once none of its processes is left."""
        folder = logs.folder_of(job.folder, attempt)
        folder.mkdir(parents=True, exist_ok=True)
        coordinator = f"127.0.0.1:{free_port()}"
        ranks: list[subprocess.Popen[bytes]] = []
        with open(folder / "launcher.log", "ab") as launcher_log:
            try:
                for rank in range(job.processes):
                    ranks.append(_start(job, attempt, rank, coordinator, log_of(folder, rank), launcher_log))
                self._wait(ranks, logs.Follower(log_of(folder, 0)))
            finally:
                _end(ranks)
        return logs.exit_code(logs.ends(folder, job.processes))

    def tenure(self) -> Tenure:
        """Stays: nobody takes this machine away from a job."""
        return Tenure.stays

    def _wait(self, ranks: Sequence[RankProcess], lead: logs.Follower) -> None:
        """Returns once every rank has ended. The peers of a failed rank get SIGTERM, and END_NOW after `grace` seconds."""
        failed = terminated = None  # when
        while None in [rank.poll() for rank in ranks]:
            while self._pending:
                _signal(ranks, self._pending.pop(0))
            now = time.monotonic()
            codes = [rank.returncode for rank in ranks if rank.returncode]
            if codes and failed is None:
                failed = now
            # The peers of a rank that has saved get the time to save as well.
            if failed is not None and terminated is None and (not all(map(saved, codes)) or now > failed + self.grace):
                _signal(ranks, signal.SIGTERM)
                terminated = now
            if terminated is not None and now > terminated + self.grace:
                _signal(ranks, END_NOW)
            self.show(lead.read())
            time.sleep(TICK_SECONDS)
        self.show(lead.read())


def free_port() -> int:
    """Returns a port that is free on this host now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def job_variables(job: Job, attempt: int, coordinator: str) -> dict[str, str]:
    """Returns the variables that describe the job to every rank: `distributed` reads them, and prefers them to a cluster's."""
    variables = {
        "ALPACA_JAX_COORDINATOR": coordinator,
        "ALPACA_JAX_PROCESSES": str(job.processes),
        "ALPACA_JAX_ATTEMPT": str(attempt),
        "ALPACA_JAX_JOB": f"{socket.gethostname()}:{job.folder}",  # the same for every attempt
        "PYTHONUNBUFFERED": "1",  # else a log lacks the last lines before a kill
    }
    if job.processes_per_node > 1:
        variables["ALPACA_JAX_LOCAL_PROCESSES"] = str(job.processes_per_node)
    return variables


def rank_environment(job: Job, attempt: int, coordinator: str) -> dict[str, str]:
    """Returns the environment of the ranks, except for what differs between them."""
    return clean_environment() | dict(job.environment) | job_variables(job, attempt, coordinator)


def _start(job: Job, attempt: int, rank: int, coordinator: str, log: Path, launcher_log: BinaryIO) -> subprocess.Popen[bytes]:
    own = {"ALPACA_JAX_PROCESS": str(rank)}
    if job.processes_per_node > 1:
        own["ALPACA_JAX_LOCAL_PROCESS"] = str(rank)
    return children.start(
        [sys.executable, "-m", "alpaca_jax.cluster.rank", str(log), "--", *job.argv()],
        END_NOW,
        stdout=launcher_log,
        stderr=launcher_log,
        cwd=job.directory,
        env=rank_environment(job, attempt, coordinator) | own,
    )


def _signal(ranks: Sequence[RankProcess], number: int) -> None:
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            rank.send_signal(number)  # Popen sends nothing to a process that has ended


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends what is left of the ranks at once, for instance if the launcher itself fails."""
    _signal(ranks, END_NOW)
    for rank in ranks:
        children.end(rank, GRACE_SECONDS)
