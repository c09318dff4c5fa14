"""The backend of TPU pods: a job's supervisor on this machine, its ranks on the workers of slices that Google's queue gives.

The code reaches the workers as an archive of the checkout, the environment and the secrets through each worker's connection. The
supervisor has to live as long as the job: launch a long one from a machine that stays on. What it has made is deleted when it ends.
"""

import contextlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from alpaca_jax import storage
from alpaca_jax.cluster import checkout, record
from alpaca_jax.cluster.job import Job, State, Status
from alpaca_jax.cluster.local import Local, start
from alpaca_jax.cluster.supervise import Supervisor
from alpaca_jax.cluster.tpu import gcloud
from alpaca_jax.cluster.tpu import slices as tpu_slices
from alpaca_jax.cluster.tpu.ranks import TpuRanks
from alpaca_jax.cluster.tpu.slices import Slices
from alpaca_jax.errors import UserError

NAME = "tpu_pod"
OPTIONS = {
    "zone": "where the TPUs are",
    "project": "gcloud's own where it isn't given",
    "tpu": "the name of a slice that exists: it is used as it is, and stays",
    "accelerator_type": "of slices to be made, such as v5litepod-16",
    "runtime_version": "of slices to be made, such as v2-alpha-tpuv5-lite",
    "slices": "how many of them, 1 where it isn't given",
    "spot": "true: cheaper, and may be taken away; the job goes on when there are others",
    "reserved": "true: from a reservation",
    "network": "of slices to be made",
    "subnetwork": "of slices to be made",
    "service_account": "of slices to be made",
    "keep": "true: what was made is not deleted at the end",
    "setup": "the shell command that installs the code, run in its folder on each worker",
    "python": "the interpreter on the workers, that of `setup`",
    "shared_disk": "true: dir is on a disk that all workers have mounted",
}
CANCEL_SECONDS = 600.0  # to save in, and to delete the slices


class TpuPod:
    """Jobs on slices of TPU VMs, through gcloud."""

    def check(self, job: Job) -> None:
        """Raises a UserError for what Google would refuse or this job lacks; nothing is made."""
        job.check_options(OPTIONS, "TPU pods")
        job.check_secrets()
        _check_shape(job)
        if not storage.is_remote(_run(job)) and not _yes(job, "shared_disk"):
            raise UserError(
                f"dir={_run(job)}: the workers of a TPU pod share no disk with each other or with this machine; give dir=gs://BUCKET/NAME, "
                "or shared_disk=true where all have mounted it"
            )
        checkout.root()
        if record.exists(job.folder) and not self.state(job.folder).state.final:
            raise UserError(f"the job in {job.folder} is queued or running already; cancel it first, or give another dir=")
        self._check_with_google(job)

    def submit(self, job: Job) -> None:
        """Starts the job's supervisor in the background; one that is done is left alone."""
        if self._prepare(job):
            start(job)

    def run(self, job: Job) -> int:
        """Runs the job in the foreground, rank 0's lines on the terminal; returns its exit code."""
        if not self._prepare(job):
            print(f"{job.folder} is done: not started again (another dir=, or another command, is another job)", file=sys.stderr)
            return 0
        return supervise_pod(job.folder, _show)

    def state(self, folder: Path) -> Status:
        """Returns where the job stands: queued as long as Google has not given it its slices."""
        found = Local().state(folder)
        job = record.read(folder).job
        if found.state is State.lost:
            return Status(State.lost, found.id, found.attempt, found.exit_code, f"{found.reason}; `cancel` deletes the slices it has made")
        if found.state.final or job.options.get("tpu"):
            return found
        google = Slices(job).state()
        if google != "ACTIVE":
            return Status(State.queued, found.id, found.attempt, found.exit_code, f"Google says {google or 'nothing yet'}")
        return found

    def cancel(self, folder: Path) -> None:
        """Has the job save and leave, and deletes what was made for it; returns when nothing of it is left."""
        found = record.read(folder)
        Local().cancel(folder, CANCEL_SECONDS)
        if not _yes(found.job, "keep"):
            Slices(found.job, say=_say).release()
        found = record.read(folder)
        if not found.state.final:
            found.settle(State.cancelled, "cancelled")

    def _prepare(self, job: Job) -> bool:
        """Checks the job, packs the code and writes job.json; False where it is done already."""
        self.check(job)
        if record.is_done(job):
            return False
        found = record.renewed(NAME, job)
        found.id = Slices(job).existing or job.name
        checkout.pack(job.folder / checkout.ARCHIVE)
        found.write()
        return True

    def _check_with_google(self, job: Job) -> None:
        if (tpu_hosts := tpu_slices.nodes(job.options)) != job.nodes:
            raise UserError(f"nodes={job.nodes}, but these TPUs have {tpu_hosts} hosts: give nodes={tpu_hosts}")
        if job.options.get("tpu"):
            return
        for kind, option in (("tpu-vm accelerator-types", "accelerator_type"), ("tpu-vm versions", "runtime_version")):
            if gcloud.describe(job.options, kind, str(job.options[option])) is None:
                raise UserError(
                    f"{option}={job.options[option]}: zone={job.options['zone']} has no such thing; see `gcloud compute tpus {kind} list`"
                )
        ours = record.exists(job.folder) and (before := record.read(job.folder)).backend == NAME and before.id == job.name
        if not ours and Slices(job).state():
            raise UserError(f"there is a queued resource {job.name} already: give tpu={job.name} to use its slice, or the job another name")


def supervise_pod(folder: Path, show: Callable[[str], None] = lambda text: None) -> int:
    """Supervises the job that `folder`'s job.json describes, and deletes what was made for it; returns its exit code."""
    found = record.read(folder)
    slices = Slices(found.job, say=_say)
    try:
        return Supervisor(found, TpuRanks(slices, show)).run()
    finally:
        if not _yes(found.job, "keep"):
            _give_back(slices)


def _give_back(slices: Slices) -> None:
    """Deletes what was made; where Google does not answer, tries again and then says what is left."""
    for pause in (5.0, 30.0, None):
        try:
            return slices.release()
        except UserError as error:
            if pause is None:
                _say(f"the queued resource {slices.job.name} could not be deleted and costs money until it is: {error}")
            else:
                time.sleep(pause)
    return None


def _check_shape(job: Job) -> None:
    if job.processes_per_node != 1:
        raise UserError(f"processes_per_node={job.processes_per_node}: a TPU worker runs one process, which has all its chips; give 1")
    if job.time_limit is not None:
        raise UserError("time_limit: nothing limits the time of a job on a TPU pod; leave it out")
    options = job.options
    if not options.get("zone"):
        raise UserError("zone= is needed, such as zone=us-central2-b; see `gcloud compute tpus locations list`")
    made = [key for key in ("accelerator_type", "runtime_version") if options.get(key)]
    if options.get("tpu") and (both := [key for key in (*made, "slices", "spot", "reserved") if options.get(key)]):
        raise UserError(f"tpu={options['tpu']} is a slice that exists, and {both[0]}= is of slices to be made: give one or the other")
    if not options.get("tpu") and len(made) < 2:
        raise UserError("give tpu=NAME of a slice that exists, or accelerator_type= and runtime_version= of slices to be made")
    slices = str(options.get("slices") or 1)
    if not slices.isdigit() or int(slices) < 1:
        raise UserError(f"slices={slices}: give a number from 1 on")
    longest = Slices(job).names[-1]
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", longest) or len(longest) > 63:
        raise UserError(
            f"the name {longest!r} is none for Google: lower-case letters, digits and '-', 63 at most; give the job another name"
        )


def _run(job: Job) -> str:
    return str(job.run or job.folder)


def _yes(job: Job, option: str) -> bool:
    return str(job.options.get(option)).lower() == "true"


def _show(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed; rank 0's log has it too
        print(text, end="", flush=True)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
