"""One attempt of a job in a Slurm allocation: `srun` starts the ranks, and ends them all if one fails."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from typing import Any

from alpaca_jax import children
from alpaca_jax.cluster import logs
from alpaca_jax.cluster.job import Job, Tenure
from alpaca_jax.cluster.processes import free_port, rank_environment
from alpaca_jax.cluster.slurm import queue as slurm_queue
from alpaca_jax.errors import UserError

TICK_SECONDS = 0.1


class SlurmRanks:
    """Runs the attempts of a job on the nodes of the current allocation, from its first node."""

    def __init__(self) -> None:
        self.id = os.environ["SLURM_JOB_ID"]
        self._pending: list[int] = []
        self._time_is_up = False

    def pass_on(self, number: int) -> None:
        """Sends signal `number` to every rank; may be called from a signal handler."""
        self._pending.append(number)
        self._time_is_up |= number == signal.SIGUSR1  # sent before the time limit, because of sbatch's --signal

    def tenure(self) -> Tenure:
        """Ends before the time limit, and if the job is about to be preempted."""
        fields = slurm_queue.described(self.id)
        if fields is None:
            return Tenure.stays
        if int(fields.get("Restarts", "0")) > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            return Tenure.requeued
        preempted = self._time_is_up or fields.get("PreemptTime", "None") != "None"
        return Tenure.ends if preempted and fields["JobState"] == "RUNNING" else Tenure.stays

    def run(self, job: Job, attempt: int) -> int:
        """Runs one attempt; returns its exit code once its step is over."""
        folder = logs.folder_of(job.folder, attempt)
        folder.mkdir(parents=True, exist_ok=True)
        first, *_ = slurm_queue.nodes(os.environ["SLURM_JOB_NODELIST"])
        coordinator = f"{slurm_queue.node_address(first)}:{free_port()}"
        with open(folder / "launcher.log", "ab") as output:
            srun = children.start(
                [*_srun(job), *_rank(job, str(folder))],
                stdout=output,
                stderr=output,
                cwd=job.directory,
                env=_step_environment(rank_environment(job, attempt, coordinator) | {"ALPACA_JAX_JOB": f"slurm:{job.folder}"}),
            )
            while srun.poll() is None:
                while self._pending:
                    self._signal(signal.Signals(self._pending.pop(0)))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    srun.wait(TICK_SECONDS)
        return logs.exit_code(logs.ends(folder, job.processes))

    def _signal(self, number: signal.Signals) -> None:
        # The step may be over by now.
        with contextlib.suppress(UserError):
            fields = slurm_queue.described(self.id) or {}
            if number == signal.SIGTERM and fields.get("JobState") != "RUNNING":
                return  # the whole job ends: Slurm has signalled the ranks itself, and a second signal could hit a rank that is leaving
            # Without --batch this reaches the ranks and not this process.
            slurm_queue.ask("scancel", f"--signal={number.name.removeprefix('SIG')}", self.id)


def allocation() -> dict[str, Any]:
    """Returns the shape of the current allocation as fields of a Job; a UserError outside of an allocation."""
    if "SLURM_JOB_ID" not in os.environ:
        raise UserError("this is not inside a Slurm allocation: submit launch/slurm.sbatch with sbatch, or use the action slurm")
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    return {"nodes": int(os.environ["SLURM_JOB_NUM_NODES"]), "processes_per_node": int(tasks)}


def _srun(job: Job) -> list[str]:
    shape = [f"--nodes={job.nodes}", f"--ntasks={job.processes}", f"--ntasks-per-node={job.processes_per_node}"]
    # Without a number a rank gets one of the job's CPUs.
    cpus = min(int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", os.environ.get("SLURM_JOB_CPUS_PER_NODE", "1")))
    shape.append(f"--cpus-per-task={max(1, cpus // job.processes_per_node)}")
    container = [f"--container-image={job.options['container']}"] if "container" in job.options else []
    return ["srun", *shape, "--kill-on-bad-exit=1", "--wait=0", "--mpi=none", "--export=ALL", *container]


def _rank(job: Job, folder: str) -> list[str]:
    python = "python" if "container" in job.options else sys.executable
    command = [python if word == sys.executable else word for word in job.argv()]
    how = ["--slurm"] if slurm_queue.signals_whole_trees() else ["--slurm", "--forward"]
    return [python, "-m", "alpaca_jax.cluster.rank", folder, *how, "--", *command]


def _step_environment(environment: dict[str, str]) -> dict[str, str]:
    # srun needs the allocation's variables, but those of its shape would conflict with the options above.
    return {name: value for name, value in environment.items() if name not in ("SLURM_CPUS_PER_TASK", "SLURM_TRES_PER_TASK")}
