"""A job as a JobSet (jobset.x-k8s.io/v1alpha2) for pools of TPU slices or GPU nodes.

launch/gke_jobset.yaml is an example of what `manifest` returns. It contains no secrets: the pods read a Secret that it names.
"""

import math
from collections.abc import Mapping
from typing import Any

from alpaca_jax.cluster.job import Job, is_true
from alpaca_jax.errors import UserError

API_VERSION = "jobset.x-k8s.io/v1alpha2"
CONTAINER = "alpaca-jax"
REPLICATED_JOB = "workers"
CHECKPOINT_SECONDS = "alpaca-jax/checkpoint-seconds"  # an annotation: how long saving takes, for `rules`
COORDINATOR_PORT = 8476
# A restart can't fix these: an unexpected error, the user's mistake, a missing command, Ctrl-C.
FINAL_CODES = (1, 2, 126, 127, 130)
KEPT_SECONDS = 86400  # how long a finished job's pods, and so their logs, are kept
DEFAULT_CHECKPOINT_SECONDS = 60
MARGIN_SECONDS = 30  # to agree on a step and to leave
# The number of dimensions of a TPU's topologies, by GKE's label.
TPUS = {"tpu-v4-podslice": 3, "tpu-v5p-slice": 3, "tpu7x": 3, "tpu-v5-lite-podslice": 2, "tpu-v6e-slice": 2}
OPTIONS = {
    "image": "the container image, built from launch/Dockerfile",
    "namespace": "default by default",
    "context": "in kubectl's configuration",
    "tpu": "the kind of TPU, by GKE's label, such as tpu-v5-lite-podslice",
    "topology": "of a slice, such as 4x4",
    "slices": "how many, 1 by default",
    "gpu": "the kind of GPU, by GKE's label, such as nvidia-h100-80gb",
    "gpus_per_node": "8 by default",
    "spot": "true: nodes that may be preempted",
    "service_account": "the Kubernetes service account, for access to the bucket",
    "queue": "a queue of Kueue",
    "checkpoint_seconds": f"how long saving takes, {DEFAULT_CHECKPOINT_SECONDS} by default",
    "grace_seconds": f"between SIGTERM and SIGKILL, checkpoint_seconds + {MARGIN_SECONDS} by default",
}


def nodes(options: Mapping[str, Any]) -> int | None:
    """Returns the number of hosts of the TPU slices that the options ask for, None for GPUs, whose nodes the job counts."""
    if not options.get("tpu"):
        return None
    return slices(options) * math.ceil(chips(options) / _chips_per_host(str(options["tpu"]), chips(options)))


def slices(options: Mapping[str, Any]) -> int:
    """Returns the number of slices; GPU nodes count as one."""
    return _whole(options, "slices", 1)


def chips(options: Mapping[str, Any]) -> int:
    """Returns the number of chips of one slice."""
    topology = str(options.get("topology") or "")
    sides = topology.split("x")
    if not all(side.isdigit() and int(side) for side in sides):
        raise UserError(f"topology={topology}: give the sides of a slice, such as topology=4x4")
    return math.prod(map(int, sides))


def manifest(job: Job) -> dict[str, Any]:
    """Returns a job's JobSet as a value for YAML or JSON; a UserError names an option that is missing or wrong."""
    options = job.options
    job.check_options(OPTIONS, "GKE")
    if bool(options.get("tpu")) == bool(options.get("gpu")):
        raise UserError("give tpu= and topology=, or gpu=: the kind of node that the job runs on, by GKE's label")
    if not options.get("image"):
        raise UserError("image= is missing: build launch/Dockerfile, push it, and give image=REGISTRY/NAME:TAG")
    if job.processes_per_node != 1:
        raise UserError(f"processes_per_node={job.processes_per_node}: a pod runs one process with all devices of its node; give 1")
    if job.time_limit is not None:
        raise UserError("time_limit: a JobSet has no limit that spans its restarts; leave it out")
    replicas = slices(options)
    if job.nodes % replicas:
        raise UserError(f"nodes={job.nodes} can't be shared evenly by slices={replicas}: give nodes= of all slices together")
    annotations = {CHECKPOINT_SECONDS: str(_whole(options, "checkpoint_seconds", DEFAULT_CHECKPOINT_SECONDS, least=0))}
    if options.get("tpu"):
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"] = "cloud.google.com/gke-nodepool"  # one slice per Job
    metadata: dict[str, Any] = {"name": job.name, "namespace": str(options.get("namespace") or "default"), "annotations": annotations}
    if options.get("queue"):
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": str(options["queue"])}
    mistakes = {"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    spec = {
        "failurePolicy": {"maxRestarts": job.restarts, "rules": [mistakes]},
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "replicatedJobs": [{"name": REPLICATED_JOB, "replicas": replicas, "template": {"spec": _job(job, job.nodes // replicas)}}],
    }
    return {"apiVersion": API_VERSION, "kind": "JobSet", "metadata": metadata, "spec": spec}


def secret_name(job: Job) -> str:
    """Returns the name of the Secret that the pods of a job read."""
    return f"{job.name}-environment"


def _job(job: Job, pods: int) -> dict[str, Any]:
    """The Job of one slice, or of all GPU nodes: any pod's failure ends it, and the exit code decides whether the JobSet restarts it."""
    final = {"containerName": CONTAINER, "operator": "In", "values": list(FINAL_CODES)}
    return {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": final}]},
        "template": {"spec": _pod(job, pods)},
    }


def _pod(job: Job, pods: int) -> dict[str, Any]:
    options = job.options
    checkpoint = _whole(options, "checkpoint_seconds", DEFAULT_CHECKPOINT_SECONDS, least=0)
    if options.get("tpu"):
        per_host = chips(options) // pods
        selector = {
            "cloud.google.com/gke-tpu-accelerator": str(options["tpu"]),
            "cloud.google.com/gke-tpu-topology": str(options["topology"]),
        }
        devices = {"google.com/tpu": per_host}
    else:
        selector = {"cloud.google.com/gke-accelerator": str(options["gpu"])}
        devices = {"nvidia.com/gpu": _whole(options, "gpus_per_node", 8)}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _whole(options, "grace_seconds", checkpoint + MARGIN_SECONDS),
        "nodeSelector": selector,
    }
    if options.get("service_account"):
        pod["serviceAccountName"] = str(options["service_account"])
    if is_true(options, "spot"):
        selector["cloud.google.com/gke-spot"] = "true"
        pod["tolerations"] = [{"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": str(options["image"]),
        "command": ["python", "-m", "alpaca_jax.cluster.remote", "--", *job.command],
        "ports": [{"containerPort": COORDINATOR_PORT, "protocol": "TCP"}],
        "env": _environment(job, pods),
        "resources": {"limits": devices},
    }
    if job.secrets:
        container["envFrom"] = [{"secretRef": {"name": secret_name(job)}}]
    if options.get("gpu"):
        # NCCL shares memory between a node's GPUs; by default a container's /dev/shm has 64 MB.
        container["volumeMounts"] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
        pod["volumes"] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]
    pod["containers"] = [container]
    return pod


def _environment(job: Job, pods: int) -> list[dict[str, Any]]:
    """The variables from which a pod knows its rank (Kubernetes sets JOB_COMPLETION_INDEX itself), then the job's own."""
    keys = {"JOBSET_NAME": "jobset-name", "REPLICATED_JOB_NAME": "replicatedjob-name", "JOB_INDEX": "job-index"}
    keys["ALPACA_JAX_ATTEMPT"] = "restart-attempt"
    fields = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['jobset.sigs.k8s.io/{key}']"}}}
        for name, key in keys.items()
    ]
    counts = {"JOBSET_REPLICAS": str(slices(job.options)), "JOB_COMPLETIONS": str(pods), "PYTHONUNBUFFERED": "1"}
    return fields + [{"name": name, "value": value} for name, value in (counts | dict(job.environment)).items()]


def _chips_per_host(tpu: str, count: int) -> int:
    if tpu not in TPUS:
        raise UserError(f"tpu={tpu}: unknown kind of TPU (this version knows {', '.join(TPUS)})")
    return count if TPUS[tpu] == 2 and count <= 8 else 4


def _whole(options: Mapping[str, Any], option: str, default: int, least: int = 1) -> int:
    text = str(default if options.get(option) is None else options[option])
    if not text.isdigit() or int(text) < least:
        raise UserError(f"{option}={text}: give a whole number of at least {least}")
    return int(text)
