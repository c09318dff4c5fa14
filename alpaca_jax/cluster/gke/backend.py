"""The GKE backend: a job is a JobSet on TPU slices or GPU nodes, which the cluster itself restarts.

The pods get the code in their image, the environment in the manifest, and the secrets in a Secret that is created from the environment of
the launch and deleted with the JobSet. A process on this machine writes the pods' logs into the job's folder; the job doesn't need it.
"""

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

from alpaca_jax import documents, rundir, storage
from alpaca_jax.cluster import local, logs, record
from alpaca_jax.cluster.gke import kubectl
from alpaca_jax.cluster.gke import rules as gke_rules
from alpaca_jax.cluster.gke.manifest import API_VERSION, manifest, secret_name
from alpaca_jax.cluster.gke.watch import FILE, state_of, watch
from alpaca_jax.cluster.job import Job, State, Status
from alpaca_jax.cluster.supervise import CTRL_C, say, show
from alpaca_jax.errors import UserError

NAME = "gke"
CANCEL_SECONDS = 90.0  # for the watching process to fetch the logs


class Gke:
    """Jobs on a Kubernetes cluster with JobSet, through kubectl."""

    def check(self, job: Job) -> None:
        """Raises a UserError for what Kubernetes would refuse, or accept and never run; queues nothing."""
        jobset_manifest = manifest(job)
        job.check_secrets()
        gke_rules.check(jobset_manifest)
        if not storage.is_remote(str(job.run or job.folder)):
            raise UserError(
                f"dir={job.run or job.folder}: pods share no disk with each other or with this machine; give dir=gs://BUCKET/NAME"
            )
        record.check_not_active(self, job.folder)
        jobset = kubectl.get(job.options, "jobset", job.name)
        if jobset is None:
            kubectl.ask(job.options, "create", "--dry-run=server", "--filename=-", value=jobset_manifest)
        elif not _is_ours(job, jobset):
            raise UserError(f"the cluster already has a JobSet {job.name} that isn't this folder's: give the job another name")

    def submit(self, job: Job) -> None:
        """Creates the job's JobSet and starts the process that writes its logs; does nothing for a job that is done."""
        if self._create(job):
            self.follow(job.folder)

    def follow(self, folder: Path) -> None:
        """Starts the process that writes the logs of the job in `folder`, if there is none; it ends with the job."""
        if record.process_of(record.read(folder).launcher) is not None:
            return
        if not local.detach(folder):
            raise UserError(
                f"no process writes the logs in {folder}; see {folder / logs.FOLDER / logs.SUPERVISOR} (the job itself may run)"
            )

    def run(self, job: Job) -> int:
        """Creates the job's JobSet and writes its logs in the foreground; returns its exit code. Ctrl-C ends this, not the job."""
        if not self._create(job):
            say(record.done_notice(job.folder))
            return 0
        try:
            return watch(job.folder, say, show)
        except KeyboardInterrupt:
            say(f"the job {job.name} keeps running; `alpaca-jax jobs dir={job.folder}` shows it, action=cancel ends it")
            return CTRL_C

    def state(self, folder: Path) -> Status:
        """Returns the job's status, from job.json and from its JobSet on the cluster."""
        job_record = record.read(folder)
        if job_record.state.final:
            return job_record.status()
        jobset = kubectl.get(job_record.job.options, "jobset", job_record.job.name)
        if jobset is None or not _is_ours(job_record.job, jobset):
            return job_record.status(State.lost, "the cluster has no such JobSet; launch it again to continue from the last checkpoint")
        state, reason = state_of(jobset)
        return job_record.status(state, job_record.reason if state is job_record.state and job_record.reason else reason)

    def cancel(self, folder: Path) -> None:
        """Deletes the job's JobSet, whose pods may save within their grace period; returns once nothing of it is left."""
        job_record = record.read(folder)
        job = job_record.job
        jobset = kubectl.get(job.options, "jobset", job.name)
        if jobset is not None and _is_ours(job, jobset):
            _delete(job)
        end = time.monotonic() + CANCEL_SECONDS
        while record.process_of(job_record.launcher) is not None and not record.read(folder).state.final and time.monotonic() < end:
            time.sleep(0.2)
        record.settle_cancelled(folder)

    def _create(self, job: Job) -> bool:
        """Checks the job and creates what it needs on the cluster; False if it is done already."""
        self.check(job)
        if record.is_done(job):
            return False
        jobset = manifest(job)
        if kubectl.get(job.options, "jobset", job.name) is not None:  # ours, and it has ended
            _delete(job)
        job_record = record.renewed(NAME, job)
        job_record.id = f"{jobset['metadata']['namespace']}/{job.name}"
        if job.secrets:
            kubectl.ask(job.options, "apply", "--server-side", "--field-manager=alpaca-jax", "--filename=-", value=_secret(job))
        created = kubectl.ask(job.options, "create", "--filename=-", "--output=json", value=jobset)
        uid = str(json.loads(created)["metadata"]["uid"])
        if job.secrets:  # with its owner known, it is deleted with it
            kubectl.ask(job.options, "apply", "--server-side", "--field-manager=alpaca-jax", "--filename=-", value=_secret(job, uid))
        rundir.write_json(job.folder / FILE, {"uid": uid, "first_attempt": None, "manifest": jobset})
        job_record.write()
        return True


def _delete(job: Job) -> None:
    kubectl.ask(job.options, "delete", "jobset", job.name, "--cascade=foreground", "--wait=true")


def _is_ours(job: Job, jobset: dict[str, Any]) -> bool:
    """True if the JobSet is the one that was created for the job's folder."""
    file = job.folder / FILE
    return file.exists() and documents.json_object(documents.read(file), str(file)).get("uid") == jobset["metadata"]["uid"]


def _secret(job: Job, owner: str | None = None) -> dict[str, Any]:
    """The Secret with the values of the job's secrets; it is passed on kubectl's standard input, never in a file or an argument."""
    metadata: dict[str, Any] = {"name": secret_name(job), "namespace": str(job.options.get("namespace") or "default")}
    if owner is not None:
        metadata["ownerReferences"] = [{"apiVersion": API_VERSION, "kind": "JobSet", "name": job.name, "uid": owner}]
    data = {name: base64.b64encode(os.environ[name].encode()).decode() for name in job.secrets}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
