"""The backend of Slurm: a job is one batch job, whose script is the supervisor on its first node."""

import os
import shlex
import sys
import time
from pathlib import Path

from alpaca_jax.cluster import logs, record
from alpaca_jax.cluster.job import Job, State, Status
from alpaca_jax.cluster.record import Record
from alpaca_jax.cluster.slurm import queue as slurm_queue
from alpaca_jax.cluster.slurm.step import SlurmRanks
from alpaca_jax.cluster.supervise import Supervisor
from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError

NAME = "slurm"
# An option of a job, and the option of sbatch that it becomes; `container` becomes srun's --container-image.
OPTIONS = {
    "account": "account",
    "constraint": "constraint",
    "container": None,
    "cpus_per_task": "cpus-per-task",
    "exclude": "exclude",
    "exclusive": "exclusive",
    "gpus_per_node": "gpus-per-node",
    "gres": "gres",
    "mem": "mem",
    "nodelist": "nodelist",
    "partition": "partition",
    "qos": "qos",
    "reservation": "reservation",
}
SAVE_SECONDS = 120  # from the signal to the time limit: what a checkpoint may take
CANCEL_SECONDS = 120.0
NUMBER_SECONDS = 60.0  # for the number of a job to stand in job.json after it has begun


class Slurm:
    """Jobs on a Slurm cluster whose nodes share the run's folder and the code."""

    def check(self, job: Job) -> None:
        """Raises a UserError for what Slurm would refuse or this job lacks; nothing is queued."""
        job.check_options(tuple(OPTIONS), "Slurm")
        job.check_secrets()
        _check_partition(job)
        if record.exists(job.folder) and not self.state(job.folder).state.final:
            raise UserError(f"the job in {job.folder} is queued or running already; cancel it first, or give another dir=")
        slurm_queue.ask("sbatch", "--test-only", *_arguments(job), text=_script(job))

    def submit(self, job: Job) -> None:
        """Queues the job; one that is done is left alone."""
        self.check(job)
        if not record.is_done(job):
            _queue(record.renewed(NAME, job))

    def state(self, folder: Path) -> Status:
        """Returns where the job stands, by job.json and by what Slurm says of it."""
        found = record.read(folder)
        state, reason = found.state, found.reason
        if not state.final and found.id is not None:
            state, reason = _by_slurm(found)
        attempt = found.attempts[-1].number if found.attempts else None
        return Status(state, found.id, attempt, found.exit_code, reason)

    def cancel(self, folder: Path) -> None:
        """Has Slurm end the job (it may save within the cluster's KillWait) and returns when it has left the nodes."""
        found = record.read(folder)
        if found.id is None or self.state(folder).state.final:
            return
        slurm_queue.ask("scancel", found.id)
        end = time.monotonic() + CANCEL_SECONDS
        while (job := slurm_queue.described(found.id)) is not None and job.get("JobState") not in slurm_queue.STATES:
            if time.monotonic() > end:
                raise UserError(f"Slurm's job {found.id} is {job['JobState']} {CANCEL_SECONDS:.0f} s after scancel; see squeue")
            time.sleep(0.2)
        found = record.read(folder)
        if not found.state.final:
            found.settle(State.cancelled, "cancelled")

    def run_here(self, job: Job) -> int:
        """Supervises `job` in the allocation that this process is in; returns its exit code. A requeued batch job goes on counting."""
        job.check_secrets()
        id = os.environ["SLURM_JOB_ID"]
        requeued = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0 and record.exists(job.folder) and record.read(job.folder).id == id
        if not requeued and not record.is_done(job):
            if record.exists(job.folder) and not self.state(job.folder).state.final:
                raise UserError(f"the job in {job.folder} is queued or running already; cancel it first, or give another dir=")
            found = record.renewed(NAME, job)
            found.id = id
            found.write()
        return Supervisor(record.read(job.folder), SlurmRanks(), requeue=_requeue_same).run()


def supervise_in_allocation(folder: Path) -> int:
    """Supervises the job that `submit` has queued, as its batch script; returns its exit code."""
    id = os.environ["SLURM_JOB_ID"]
    end = time.monotonic() + NUMBER_SECONDS
    while (found := record.read(folder)).id != id:  # submit writes it after sbatch has answered
        if time.monotonic() > end:
            raise UserError(f"{folder / record.FILE} is of Slurm's job {found.id}, and this is {id}; launch it again")
        time.sleep(0.1)
    return Supervisor(found, SlurmRanks(), requeue=_requeue).run()


def _check_partition(job: Job) -> None:
    """Raises a UserError for a partition that isn't there, is down, or whose limits the job is beyond: Slurm may let that wait for ever."""
    known = slurm_queue.partitions()
    named = str(job.options["partition"]).split(",") if job.options.get("partition") else []
    for name in named:
        if name not in known:
            raise UserError(f"partition={name}: this cluster has no such partition{suggestion(name, known)} (it has: {', '.join(known)})")
    chosen = [known[name] for name in named] or [partition for partition in known.values() if partition.default]
    problems = [_problem(job, partition) for partition in chosen]
    if problems and all(problems):
        raise UserError("; ".join(str(problem) for problem in problems) + f" (this cluster's partitions: {', '.join(known)})")


def _problem(job: Job, partition: slurm_queue.Partition) -> str | None:
    if not partition.up:
        return f"the partition {partition.name} is down"
    if partition.nodes is not None and job.nodes > partition.nodes:
        return f"{job.nodes} nodes: the partition {partition.name} gives a job {partition.nodes} at most"
    if partition.minutes is not None and job.time_limit is not None and job.time_limit > partition.minutes:
        return f"time_limit: {job.time_limit} minutes are more than the {partition.minutes:.0f} of the partition {partition.name}"
    return None


def _queue(found: Record) -> None:
    job = found.job
    (job.folder / logs.FOLDER).mkdir(parents=True, exist_ok=True)
    found.state, found.id = State.queued, None
    found.write()
    try:
        found.id = slurm_queue.ask("sbatch", "--parsable", *_arguments(job), text=_script(job)).strip().split(";")[0]
    except UserError as error:
        found.settle(State.failed, str(error))
        raise
    found.write()


def _requeue(found: Record) -> None:
    """Queues the job that this process is in once more, under its number, or as a new job where the cluster doesn't allow that."""
    try:
        _requeue_same(found)
    except UserError:
        _queue(found)


def _requeue_same(found: Record) -> None:
    # First what the next start reads: the requeue ends this process.
    found.settle(State.queued, "queued again before its nodes are taken away")
    try:
        slurm_queue.ask("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
    except UserError as error:
        found.settle(State.cancelled, f"saved, and not queued again: {error}; submit it again")
        raise


def _arguments(job: Job) -> list[str]:
    """The options of sbatch."""
    limited = [] if job.time_limit is None else [f"--time={job.time_limit}"]
    save = SAVE_SECONDS if job.time_limit is None else min(SAVE_SECONDS, job.time_limit * 60 // 2)
    own = [
        f"--{OPTIONS[key]}" if value in (True, "true") else f"--{OPTIONS[key]}={value}"
        for key, value in job.options.items()
        if OPTIONS[key] is not None and value not in (None, False, "false")
    ]
    return [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        f"--ntasks-per-node={job.processes_per_node}",
        f"--chdir={job.directory}",
        f"--output={job.folder / logs.FOLDER / logs.SUPERVISOR}",
        "--open-mode=append",
        "--export=ALL",  # the one way in which environment and secrets reach the workers
        "--requeue",  # when a node fails; a job that ends by itself in time queues itself again
        f"--signal=B:USR1@{save}",
        *limited,
        *own,
    ]


def _script(job: Job) -> str:
    command = [sys.executable, "-m", "alpaca_jax.cluster", "supervise", str(job.folder)]
    return f"#!/bin/sh\nexec {shlex.join(command)}\n"


def _by_slurm(found: Record) -> tuple[State, str]:
    """Where a job stands that job.json calls queued, running or restarting."""
    assert found.id is not None
    job = slurm_queue.described(found.id)
    if job is None:
        return State.lost, f"Slurm doesn't know its job {found.id} any more; launch it again to go on from the last checkpoint"
    words = f"Slurm says {job['JobState']} ({job.get('Reason', 'None')})"
    state = slurm_queue.STATES.get(job["JobState"])
    if state is None:
        return (found.state if found.state is not State.queued else State.running), found.reason
    return state, words
