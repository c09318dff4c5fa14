"""The TPU pod backend: a job's supervisor runs on this machine, its ranks on the workers of slices (queued resources).

The workers get the code as an archive of the checkout, and the environment and secrets through their connections. The supervisor must live
as long as the job: launch a long job from a machine that stays on. The slices that it created are deleted when it ends.
"""

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path

from alpaca_jax import storage
from alpaca_jax.cluster import checkout, record
from alpaca_jax.cluster.job import Job, State, Status, is_true
from alpaca_jax.cluster.local import Local
from alpaca_jax.cluster.supervise import Supervisor, say, show
from alpaca_jax.cluster.tpu import gcloud
from alpaca_jax.cluster.tpu import slices as tpu_slices
from alpaca_jax.cluster.tpu.ranks import TpuRanks
from alpaca_jax.cluster.tpu.slices import Slices
from alpaca_jax.errors import UserError

NAME = "tpu_pod"
OPTIONS = {
    "zone": "where the TPUs are",
    "project": "gcloud's own by default",
    "tpu": "the name of an existing slice: it is used as it is, and kept",
    "accelerator_type": "of slices to create, such as v5litepod-16",
    "runtime_version": "of slices to create, such as v2-alpha-tpuv5-lite",
    "slices": "how many, 1 by default",
    "spot": "true: cheaper, but may be preempted; the job continues once there are others",
    "reserved": "true: from a reservation",
    "network": "of slices to create",
    "subnetwork": "of slices to create",
    "service_account": "of slices to create",
    "keep": "true: the created slices are not deleted at the end",
    "setup": "the shell command that installs the code, run in the code's folder on each worker",
    "python": "the interpreter on the workers, which `setup` installs into",
    "shared_disk": "true: dir is on a disk that all workers have mounted",
}
CANCEL_SECONDS = 600.0  # to save, and to delete the slices


class TpuPod(Local):
    """Jobs on slices of TPU VMs, through gcloud; their supervisors run on this machine."""

    def check(self, job: Job) -> None:
        """Raises a UserError for what Google would refuse or the job lacks; creates nothing."""
        job.check_options(OPTIONS, "TPU pods")
        job.check_secrets()
        _check_shape(job)
        if not storage.is_remote(_run(job)) and not is_true(job.options, "shared_disk"):
            raise UserError(
                f"dir={_run(job)}: the workers of a TPU pod share no disk with each other or with this machine; give dir=gs://BUCKET/NAME, "
                "or shared_disk=true if all have mounted it"
            )
        checkout.root()
        record.check_not_active(self, job.folder)
        self._check_with_google(job)

    def supervise(self, folder: Path) -> int:
        """Supervises the job in `folder`, with the lead's output on the terminal; returns its exit code."""
        return supervise_pod(folder, show)

    def state(self, folder: Path) -> Status:
        """Returns the job's status; it is queued until Google has provided its slices."""
        status = super().state(folder)
        job = record.read(folder).job
        if status.state is State.lost:
            return dataclasses.replace(status, reason=f"{status.reason}; `cancel` deletes the slices that it created")
        if status.state.final or job.options.get("tpu"):
            return status
        google = Slices(job).state()
        if google != "ACTIVE":
            return dataclasses.replace(status, state=State.queued, reason=f"Google says {google or 'nothing yet'}")
        return status

    def cancel(self, folder: Path, grace: float = CANCEL_SECONDS) -> None:
        """Has the job save and leave, and deletes the slices created for it; returns once nothing of it is left."""
        super().cancel(folder, grace)
        job = record.read(folder).job
        if not is_true(job.options, "keep"):
            Slices(job, say=say).release()
        record.settle_cancelled(folder)

    def _prepare(self, job: Job) -> bool:
        """Checks the job, packs the code and writes job.json; False if it is done already."""
        self.check(job)
        if record.is_done(job):
            return False
        job_record = record.renewed(NAME, job)
        job_record.id = Slices(job).existing or job.name
        checkout.pack(job.folder / checkout.ARCHIVE)
        job_record.write()
        return True

    def _check_with_google(self, job: Job) -> None:
        if (tpu_hosts := tpu_slices.nodes(job.options)) != job.nodes:
            raise UserError(f"nodes={job.nodes}, but these TPUs have {tpu_hosts} hosts: give nodes={tpu_hosts}")
        if job.options.get("tpu"):
            return
        for kind, option in (("tpu-vm accelerator-types", "accelerator_type"), ("tpu-vm versions", "runtime_version")):
            if gcloud.describe(job.options, kind, str(job.options[option])) is None:
                raise UserError(
                    f"{option}={job.options[option]} doesn't exist in zone={job.options['zone']}; see `gcloud compute tpus {kind} list`"
                )
        ours = record.exists(job.folder) and (before := record.read(job.folder)).backend == NAME and before.id == job.name
        if not ours and Slices(job).state():
            raise UserError(f"a queued resource {job.name} exists already: give tpu={job.name} to use its slice, or the job another name")


def supervise_pod(folder: Path, show_lead: Callable[[str], None] = lambda text: None) -> int:
    """Supervises the job that job.json in `folder` describes, and deletes the slices created for it; returns its exit code."""
    job_record = record.read(folder)
    slices = Slices(job_record.job, say=say)
    try:
        return Supervisor(job_record, TpuRanks(slices, show_lead)).run()
    finally:
        if not is_true(job_record.job.options, "keep"):
            _give_back(slices)


def _give_back(slices: Slices) -> None:
    """Deletes the slices; if Google doesn't answer, tries again and finally says what is left."""
    for pause in (5.0, 30.0, None):
        try:
            return slices.release()
        except UserError as error:
            if pause is None:
                say(f"the queued resource {slices.job.name} could not be deleted, and costs money until it is: {error}")
            else:
                time.sleep(pause)
    return None


def _check_shape(job: Job) -> None:
    if job.processes_per_node != 1:
        raise UserError(f"processes_per_node={job.processes_per_node}: a TPU worker runs one process with all its chips; give 1")
    if job.time_limit is not None:
        raise UserError("time_limit: jobs on a TPU pod have no time limit; leave it out")
    options = job.options
    if not options.get("zone"):
        raise UserError("zone= is missing, such as zone=us-central2-b; see `gcloud compute tpus locations list`")
    of_new = [key for key in ("accelerator_type", "runtime_version") if options.get(key)]
    if options.get("tpu") and (both := [key for key in (*of_new, "slices", "spot", "reserved") if options.get(key)]):
        raise UserError(f"tpu={options['tpu']} is an existing slice, but {both[0]}= is for slices to create: give one or the other")
    if not options.get("tpu") and len(of_new) < 2:
        raise UserError("give tpu=NAME of an existing slice, or accelerator_type= and runtime_version= of slices to create")
    slices = str(options.get("slices") or 1)
    if not slices.isdigit() or int(slices) < 1:
        raise UserError(f"slices={slices}: give a number of at least 1")
    longest = Slices(job).names[-1]
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", longest) or len(longest) > 63:
        raise UserError(f"the name {longest!r} is not valid for Google: name the job with lower-case letters, digits and '-', 63 at most")


def _run(job: Job) -> str:
    return str(job.run or job.folder)
