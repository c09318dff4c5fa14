"""The backend of Kubernetes: a job is a JobSet on GKE's TPU slices or GPU nodes, which the cluster itself starts again.

The code reaches the pods in their image, the environment in the manifest, the secrets in a Secret that is made from the environment of
the launch and goes with the JobSet. A process on this machine writes the pods' logs into the job's folder; the job doesn't need it.
"""

import base64
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from alpaca_jax import rundir, storage
from alpaca_jax.cluster import local, logs, record
from alpaca_jax.cluster.gke import kubectl
from alpaca_jax.cluster.gke import rules as gke_rules
from alpaca_jax.cluster.gke.manifest import API_VERSION, manifest, secret_name
from alpaca_jax.cluster.gke.watch import FILE, state_of, watch
from alpaca_jax.cluster.job import Job, State, Status
from alpaca_jax.cluster.supervise import CTRL_C
from alpaca_jax.errors import UserError

NAME = "gke"
CANCEL_SECONDS = 90.0  # for the watcher to bring the logs home


class Gke:
    """Jobs on a Kubernetes cluster with JobSet, through kubectl."""

    def check(self, job: Job) -> None:
        """Raises a UserError for what Kubernetes would refuse, or would take and never run; nothing is queued."""
        made = manifest(job)
        job.check_secrets()
        gke_rules.check(made)
        if not storage.is_remote(str(job.run or job.folder)):
            raise UserError(
                f"dir={job.run or job.folder}: pods share no disk with each other or with this machine; give dir=gs://BUCKET/NAME"
            )
        if record.exists(job.folder) and not self.state(job.folder).state.final:
            raise UserError(f"the job in {job.folder} is queued or running already; cancel it first, or give another dir=")
        found = kubectl.get(job.options, "jobset", job.name)
        if found is not None and not _is_ours(job, found):
            raise UserError(f"the cluster has a JobSet {job.name} already, which is not this folder's: give the job another name")
        if found is None:
            kubectl.ask(job.options, "create", "--dry-run=server", "--filename=-", value=made)

    def submit(self, job: Job) -> None:
        """Creates the job's JobSet and starts the process that writes its logs; one that is done is left alone."""
        if self._create(job):
            self.follow(job.folder)

    def follow(self, folder: Path) -> None:
        """Starts the process that writes the logs of the job in `folder`, where there is none; it ends with the job."""
        if record.process_of(record.read(folder).launcher) is not None:
            return
        if not local.detach(folder):
            raise UserError(f"nothing writes the logs in {folder}; see {folder / logs.FOLDER / logs.SUPERVISOR} (the job itself may run)")

    def run(self, job: Job) -> int:
        """Creates the job's JobSet and writes its logs in the foreground; returns its exit code. Ctrl-C ends that, and not the job."""
        if not self._create(job):
            print(f"{job.folder} is done: not started again (another dir=, or another command, is another job)", file=sys.stderr)
            return 0
        try:
            return watch(job.folder, _say, _show)
        except KeyboardInterrupt:
            _say(f"the job {job.name} goes on; `alpaca-jax jobs dir={job.folder}` shows it, and action=cancel ends it")
            return CTRL_C

    def state(self, folder: Path) -> Status:
        """Returns where the job stands, by job.json and by what the cluster says of its JobSet."""
        found = record.read(folder)
        state, reason = found.state, found.reason
        if not state.final:
            jobset = kubectl.get(found.job.options, "jobset", found.job.name)
            if jobset is None or not _is_ours(found.job, jobset):
                state, reason = (
                    State.lost,
                    "the cluster doesn't know its JobSet; launch it again to go on from the last checkpoint",
                )
            else:
                now, why = state_of(jobset)
                state, reason = now, (reason if now is state and reason else why)
        attempt = found.attempts[-1].number if found.attempts else None
        return Status(state, found.id, attempt, found.exit_code, reason)

    def cancel(self, folder: Path) -> None:
        """Deletes the job's JobSet (its pods may save within their grace period) and returns when nothing of it is left."""
        found = record.read(folder)
        jobset = kubectl.get(found.job.options, "jobset", found.job.name)
        if jobset is not None and _is_ours(found.job, jobset):
            kubectl.ask(found.job.options, "delete", "jobset", found.job.name, "--cascade=foreground", "--wait=true")
        end = time.monotonic() + CANCEL_SECONDS
        while record.process_of(found.launcher) is not None and not record.read(folder).state.final and time.monotonic() < end:
            time.sleep(0.2)
        found = record.read(folder)
        if not found.state.final:
            found.settle(State.cancelled, "cancelled")

    def _create(self, job: Job) -> bool:
        """Checks the job and creates what it needs on the cluster; False where it is done already."""
        self.check(job)
        if record.is_done(job):
            return False
        made = manifest(job)
        if kubectl.get(job.options, "jobset", job.name) is not None:  # ours, and at its end
            kubectl.ask(job.options, "delete", "jobset", job.name, "--cascade=foreground", "--wait=true")
        found = record.renewed(NAME, job)
        found.id = f"{made['metadata']['namespace']}/{job.name}"
        if job.secrets:
            kubectl.ask(job.options, "apply", "--server-side", "--field-manager=alpaca-jax", "--filename=-", value=_secret(job))
        created = kubectl.ask(job.options, "create", "--filename=-", "--output=json", value=made)
        uid = str(json.loads(created)["metadata"]["uid"])
        if job.secrets:  # now that it has an owner, it goes when that goes
            kubectl.ask(job.options, "apply", "--server-side", "--field-manager=alpaca-jax", "--filename=-", value=_secret(job, uid))
        rundir.write_json(job.folder / FILE, {"uid": uid, "first_attempt": None, "manifest": made})
        found.write()
        return True


def _is_ours(job: Job, jobset: dict[str, Any]) -> bool:
    """True where the JobSet is the one that was created for the job's folder."""
    given = job.folder / FILE
    return given.exists() and rundir.read_json(given)["uid"] == jobset["metadata"]["uid"]


def _secret(job: Job, owner: str | None = None) -> dict[str, Any]:
    """The Secret with the values of the job's secrets; it goes to kubectl's standard input, never to a file or an argument."""
    metadata: dict[str, Any] = {"name": secret_name(job), "namespace": str(job.options.get("namespace") or "default")}
    if owner is not None:
        metadata["ownerReferences"] = [{"apiVersion": API_VERSION, "kind": "JobSet", "name": job.name, "uid": owner}]
    data = {name: base64.b64encode(os.environ[name].encode()).decode() for name in job.secrets}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}


def _show(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed; rank 0's log has it too
        print(text, end="", flush=True)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
