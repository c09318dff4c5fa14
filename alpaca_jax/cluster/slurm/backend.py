"""The Slurm backend: a job is one batch job, whose script is the supervisor on its first node."""

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
# A job's options, and sbatch's names for them; `container` becomes srun's --container-image.
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
SAVE_SECONDS = 120  # between the signal and the time limit, for a checkpoint
CANCEL_SECONDS = 120.0
NUMBER_SECONDS = 60.0  # for the number of a job that has begun to appear in job.json


class Slurm:
    """Jobs on a Slurm cluster whose nodes share the run's folder and the code."""

    def check(self, job: Job) -> None:
        """Raises a UserError for what Slurm would refuse or the job lacks; queues nothing."""
        job.check_options(tuple(OPTIONS), "Slurm")
        job.check_secrets()
        _check_partition(job)
        record.check_not_active(self, job.folder)
        slurm_queue.ask("sbatch", "--test-only", *_arguments(job), text=_script(job))

    def submit(self, job: Job) -> None:
        """Queues the job; does nothing for a job that is done."""
        self.check(job)
        if not record.is_done(job):
            _queue(record.renewed(NAME, job))

    def state(self, folder: Path) -> Status:
        """Returns the job's status, from job.json and from Slurm."""
        job_record = record.read(folder)
        if job_record.state.final or job_record.id is None:
            return job_record.status()
        return job_record.status(*_by_slurm(job_record))

    def cancel(self, folder: Path) -> None:
        """Has Slurm end the job, which may save within the cluster's KillWait; returns once it has left its nodes."""
        job_record = record.read(folder)
        if job_record.id is None or self.state(folder).state.final:
            return
        slurm_queue.ask("scancel", job_record.id)
        end = time.monotonic() + CANCEL_SECONDS
        while (job := slurm_queue.described(job_record.id)) is not None and job.get("JobState") not in slurm_queue.STATES:
            if time.monotonic() > end:
                raise UserError(f"Slurm job {job_record.id} is still {job['JobState']} {CANCEL_SECONDS:.0f} s after scancel; see squeue")
            time.sleep(0.2)
        record.settle_cancelled(folder)

    def run_here(self, job: Job) -> int:
        """Supervises `job` in the current allocation; returns its exit code. A requeued batch job continues its count of attempts."""
        job.check_secrets()
        id = os.environ["SLURM_JOB_ID"]
        requeued = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0 and record.exists(job.folder) and record.read(job.folder).id == id
        if not requeued and not record.is_done(job):
            record.check_not_active(self, job.folder)
            job_record = record.renewed(NAME, job)
            job_record.id = id
            job_record.write()
        return Supervisor(record.read(job.folder), SlurmRanks(), requeue=_requeue_same).run()


def supervise_in_allocation(folder: Path) -> int:
    """Supervises the job that `submit` has queued, from its batch script; returns its exit code."""
    id = os.environ["SLURM_JOB_ID"]
    end = time.monotonic() + NUMBER_SECONDS
    while (job_record := record.read(folder)).id != id:  # submit writes it once sbatch has answered
        if time.monotonic() > end:
            raise UserError(f"{folder / record.FILE} belongs to Slurm job {job_record.id}, and this is {id}; launch it again")
        time.sleep(0.1)
    return Supervisor(job_record, SlurmRanks(), requeue=_requeue).run()


def _check_partition(job: Job) -> None:
    """Raises a UserError for a partition that is unknown, down or too small for the job, which Slurm may leave pending for ever."""
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
        return f"{job.nodes} nodes: the partition {partition.name} allows a job at most {partition.nodes}"
    if partition.minutes is not None and job.time_limit is not None and job.time_limit > partition.minutes:
        return f"time_limit: {job.time_limit} minutes exceed the {partition.minutes:.0f} of the partition {partition.name}"
    return None


def _queue(job_record: Record) -> None:
    job = job_record.job
    (job.folder / logs.FOLDER).mkdir(parents=True, exist_ok=True)
    job_record.state, job_record.id = State.queued, None
    job_record.write()
    try:
        job_record.id = slurm_queue.ask("sbatch", "--parsable", *_arguments(job), text=_script(job)).strip().split(";")[0]
    except UserError as error:
        job_record.settle(State.failed, str(error))
        raise
    job_record.write()


def _requeue(job_record: Record) -> None:
    """Queues the current job again, under its number, or as a new job if the cluster doesn't allow that."""
    try:
        _requeue_same(job_record)
    except UserError:
        _queue(job_record)


def _requeue_same(job_record: Record) -> None:
    # Written first, for the next start: the requeue ends this process.
    job_record.settle(State.queued, "queued again because its nodes are being taken away")
    try:
        slurm_queue.ask("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
    except UserError as error:
        job_record.settle(State.cancelled, f"saved, but not queued again: {error}; submit it again")
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
        "--export=ALL",  # the only way in which environment and secrets reach the workers
        "--requeue",  # if a node fails; before its time limit a job queues itself again
        f"--signal=B:USR1@{save}",
        *limited,
        *own,
    ]


def _script(job: Job) -> str:
    command = [sys.executable, "-m", "alpaca_jax.cluster", "supervise", str(job.folder)]
    return f"#!/bin/sh\nexec {shlex.join(command)}\n"


def _by_slurm(job_record: Record) -> tuple[State, str]:
    """The state and reason of a job that job.json calls queued, running or restarting."""
    assert job_record.id is not None
    job = slurm_queue.described(job_record.id)
    if job is None:
        return State.lost, f"Slurm no longer knows its job {job_record.id}; launch it again to continue from the last checkpoint"
    words = f"Slurm says {job['JobState']} ({job.get('Reason', 'None')})"
    state = slurm_queue.STATES.get(job["JobState"])
    if state is None:
        return (job_record.state if job_record.state is not State.queued else State.running), job_record.reason
    return state, words
