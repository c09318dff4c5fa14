"""One attempt of a job on the workers of TPU slices: a connection to each carries its command, its log and its signals."""

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from alpaca_jax import children
from alpaca_jax.cluster import checkout, logs
from alpaca_jax.cluster.job import Job, Tenure, now
from alpaca_jax.cluster.processes import GRACE_SECONDS, LocalRanks, job_variables
from alpaca_jax.cluster.rank import END_NOW, line, log_of
from alpaca_jax.cluster.tpu import gcloud
from alpaca_jax.cluster.tpu.slices import Slices, Worker
from alpaca_jax.errors import Lost, UserError

PORT = 8476  # of the coordinator, on the lead's host
REACH_SECONDS = 300.0  # for a new machine to answer ssh
HOME = "alpaca-jax"  # below the worker's home: a virtual environment, and the code of each job
PYTHON = f'"$HOME/{HOME}/venv/bin/python"'
# The images of TPU VMs have a Python too old for this package; uv installs one.
SETUP = (
    "python3 -m pip install --quiet --user uv"
    f' && python3 -m uv venv --quiet --allow-existing --python 3.12 "$HOME/{HOME}/venv"'
    f" && python3 -m uv pip install --quiet --python {PYTHON} --constraint constraints.txt --editable '.[tpu,gcs]'"
)
# A connection whose other end is gone ends within a minute. No terminal: it would alter the data.
SSH = ("--ssh-flag=-T", "--ssh-flag=-oServerAliveInterval=15", "--ssh-flag=-oServerAliveCountMax=4")


class TpuRanks(LocalRanks):
    """Runs the attempts of a job on its slices; `show` gets what the lead writes."""

    def __init__(self, slices: Slices, show: Callable[[str], None] = lambda text: None, grace: float = GRACE_SECONDS) -> None:
        super().__init__(show, grace)
        self.slices = slices

    def tenure(self) -> Tenure:
        """Stays: the next attempt asks for preempted slices again."""
        return Tenure.stays

    def run(self, job: Job, attempt: int) -> int:
        """Runs one attempt; returns its exit code once none of its connections is left."""
        folder = logs.folder_of(job.folder, attempt)
        folder.mkdir(parents=True, exist_ok=True)
        workers: list[Worker] | None = None
        try:
            workers = self.slices.acquire(lambda: bool(self._pending))
            if workers is not None:
                self._copy_code(job, workers)
        except (UserError, Lost) as error:
            with open(log_of(folder, 0), "a") as log:
                log.write(f"{error}\n" + line(0, "the-launcher", exit=error.exit_code, ended=now(), traceback="none"))
            return error.exit_code
        if workers is None:
            return 128 + self._pending.pop(0)
        return self._run(job, attempt, workers, folder)

    def _run(self, job: Job, attempt: int, workers: list[Worker], folder: Path) -> int:
        connections: list[Connection] = []
        try:
            for rank, worker in enumerate(workers):
                connections.append(Connection(job, attempt, rank, worker, f"{workers[0].address}:{PORT}", log_of(folder, rank)))
            self._wait(connections, logs.Follower(log_of(folder, 0)))
        finally:
            for connection in connections:
                connection.close()
        return logs.exit_code(logs.ends(folder, job.processes))

    def _copy_code(self, job: Job, workers: list[Worker]) -> None:
        """Copies the archive of the code to every worker; a new machine may take a while to answer."""
        end = time.monotonic() + REACH_SECONDS
        for tpu in dict.fromkeys(worker.tpu for worker in workers):
            while True:
                try:
                    target = f"{tpu}:{_archive(job)}"
                    gcloud.ask(job.options, "tpu-vm", "scp", str(job.folder / checkout.ARCHIVE), target, "--worker=all")
                    break
                except UserError as error:
                    if self._pending or time.monotonic() > end:
                        raise Lost(f"{tpu}: can't copy the code there: {error}") from error
                    time.sleep(min(5.0, REACH_SECONDS / 10))


class Connection:
    """A connection to one rank's worker, through gcloud's ssh; LocalRanks treats it like a process."""

    def __init__(self, job: Job, attempt: int, rank: int, worker: Worker, coordinator: str, log: Path) -> None:
        self.rank, self._end_at = rank, float("inf")
        order = {"environment": _environment(job, attempt, rank, coordinator), "command": list(job.command)}
        ssh = gcloud.command(
            job.options, "tpu-vm", "ssh", worker.tpu, f"--worker={worker.number}", f"--command={_script(job, rank, worker)}", *SSH
        )
        with open(log, "ab") as output:
            output.write(line(rank, worker.host, pid=os.getpid(), started=now()).encode())
            output.flush()
            self._process = subprocess.Popen(ssh, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True)
        self._write(json.dumps(order))

    @property
    def returncode(self) -> int | None:
        """The command's exit code, as ssh reports it; 255 if the connection was lost."""
        return self._process.returncode

    def poll(self) -> int | None:
        """Returns the exit code, None while the connection lasts."""
        if time.monotonic() > self._end_at:  # the other end doesn't react
            self._kill()
        return self._process.poll()

    def send_signal(self, number: int) -> None:
        """Has the worker pass signal `number` on to the command."""
        if self._process.poll() is not None:
            return
        if number == END_NOW:
            if self._end_at < float("inf"):
                return
            self._end_at = time.monotonic() + GRACE_SECONDS
        self._write(str(int(number)))

    def close(self) -> None:
        """Ends the connection and the command at its other end; returns once it has ended here."""
        self.send_signal(END_NOW)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self._kill()
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _kill(self) -> None:
        if self._process.poll() is None:
            children.kill_group(self._process)  # gcloud and its ssh

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{text}\n".encode())
            self._process.stdin.flush()


def _environment(job: Job, attempt: int, rank: int, coordinator: str) -> dict[str, str]:
    """The variables that the command gets: the job's own, its secrets, and what describes its rank."""
    secrets = {name: os.environ[name] for name in job.secrets}
    return dict(job.environment) | secrets | job_variables(job, attempt, coordinator) | {"ALPACA_JAX_PROCESS": str(rank)}


def _script(job: Job, rank: int, worker: Worker) -> str:
    """The script for a worker's shell: unpack, install, then run the rank, which reads its command from the connection."""
    folder = f'"$HOME/{HOME}/{job.name}"'
    ended = line(rank, worker.host, exit=UserError.exit_code, ended="$(date -u +%Y-%m-%dT%H:%M:%S+00:00)", traceback="none").strip()
    unpack = f"rm -rf {folder} && mkdir -p {folder} && cd {folder} && tar -xzf ~/{_archive(job)}"
    setup = str(job.options.get("setup") or SETUP)
    install = f"( ( {setup} ) || ( sleep 5; {setup} ) )"  # twice: it downloads from the network
    refused = f'{{ echo "the setup has failed"; echo "{ended}"; exit {UserError.exit_code}; }}'
    python = shlex.quote(str(job.options["python"])) if job.options.get("python") else PYTHON
    return f"{{ {unpack} && {install} </dev/null; }} 2>&1 || {refused}; exec {python} -m alpaca_jax.cluster.remote 2>&1"


def _archive(job: Job) -> str:
    return f"{HOME}-{job.name}.tar.gz"
