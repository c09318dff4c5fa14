"""What a job is to Kubernetes: a JobSet (jobset.x-k8s.io/v1alpha2) for pools of TPU slices or of GPU nodes.

launch/gke_jobset.yaml is an example of what `manifest` makes. No secret is in it: the pods read a Secret that is named in it.
"""

import math
from collections.abc import Mapping
from typing import Any

from alpaca_jax.cluster.job import Job
from alpaca_jax.errors import UserError

API_VERSION = "jobset.x-k8s.io/v1alpha2"
CONTAINER = "alpaca-jax"
REPLICATED_JOB = "workers"
CHECKPOINT_SECONDS = "alpaca-jax/checkpoint-seconds"  # an annotation: what saving takes, for gke_rules
COORDINATOR_PORT = 8476
# A restart can't mend these: an unexpected error, the user's mistake, a command that isn't there, Ctrl-C.
FINAL_CODES = (1, 2, 126, 127, 130)
KEPT_SECONDS = 86400  # that a finished job's pods, hence their logs, stay
DEFAULT_CHECKPOINT_SECONDS = 60
MARGIN_SECONDS = 30  # to agree on a step and leave
# Google's label of a kind of TPU: the dimensions of its topologies.
TPUS = {"tpu-v4-podslice": 3, "tpu-v5p-slice": 3, "tpu7x": 3, "tpu-v5-lite-podslice": 2, "tpu-v6e-slice": 2}
OPTIONS = {
    "image": "the container image, made by launch/Dockerfile",
    "namespace": "default where it isn't given",
    "context": "of kubectl's configuration",
    "tpu": "the kind of TPU, as GKE's label calls it, such as tpu-v5-lite-podslice",
    "topology": "of a slice, such as 4x4",
    "slices": "how many of them, 1 where it isn't given",
    "gpu": "the kind of GPU, as GKE's label calls it, such as nvidia-h100-80gb",
    "gpus_per_node": "8 where it isn't given",
    "spot": "true: nodes that may be taken away",
    "service_account": "Kubernetes' account whose rights on the bucket the pods have",
    "queue": "a queue of Kueue",
    "checkpoint_seconds": f"what saving takes, {DEFAULT_CHECKPOINT_SECONDS} where it isn't given",
    "grace_seconds": f"between SIGTERM and SIGKILL, checkpoint_seconds and {MARGIN_SECONDS} where it isn't given",
}


def nodes(options: Mapping[str, Any]) -> int | None:
    """Returns how many hosts the slices have that the options ask for, None for GPUs, whose nodes are counted by the job."""
    if not options.get("tpu"):
        return None
    return slices(options) * math.ceil(chips(options) / _chips_per_host(str(options["tpu"]), chips(options)))


def slices(options: Mapping[str, Any]) -> int:
    """Returns the number of slices; nodes of GPUs are all one."""
    return _whole(options, "slices", 1)


def chips(options: Mapping[str, Any]) -> int:
    """Returns the number of chips of one slice."""
    topology = str(options.get("topology") or "")
    sides = topology.split("x")
    if not all(side.isdigit() and int(side) for side in sides):
        raise UserError(f"topology={topology}: give the sides of a slice, such as topology=4x4")
    return math.prod(map(int, sides))


def manifest(job: Job) -> dict[str, Any]:
    """Returns the JobSet of a job as a value for YAML or JSON; a UserError names the option that is absent or wrong."""
    options = job.options
    job.check_options(OPTIONS, "GKE")
    if bool(options.get("tpu")) == bool(options.get("gpu")):
        raise UserError("give tpu= and topology=, or gpu=: the kind of node that the job runs on, as GKE's labels call it")
    if not options.get("image"):
        raise UserError("image= is needed: build launch/Dockerfile, push it, and give image=REGISTRY/NAME:TAG")
    if job.processes_per_node != 1:
        raise UserError(f"processes_per_node={job.processes_per_node}: a pod runs one process, which has all devices of its node; give 1")
    if job.time_limit is not None:
        raise UserError("time_limit: a JobSet has none that holds over its restarts; leave it out")
    replicas = slices(options)
    if job.nodes % replicas:
        raise UserError(f"nodes={job.nodes} can't be shared evenly by slices={replicas}: give nodes= of all slices together")
    annotations = {CHECKPOINT_SECONDS: str(_whole(options, "checkpoint_seconds", DEFAULT_CHECKPOINT_SECONDS, least=0))}
    if options.get("tpu"):
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"] = "cloud.google.com/gke-nodepool"  # a slice each
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
    """The Job of one slice, or of all nodes of GPUs: any pod that fails ends it, and how says whether the JobSet starts it again."""
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
    if str(options.get("spot")).lower() == "true":
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
        # NCCL shares memory between a node's GPUs; a container's own /dev/shm has 64 MB.
        container["volumeMounts"] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
        pod["volumes"] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]
    pod["containers"] = [container]
    return pod


def _environment(job: Job, pods: int) -> list[dict[str, Any]]:
    """What tells a pod where it stands (Kubernetes sets JOB_COMPLETION_INDEX by itself), then what the job says."""
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
        raise UserError(f"tpu={tpu}: not a kind of TPU that this version knows ({', '.join(TPUS)})")
    return count if TPUS[tpu] == 2 and count <= 8 else 4


def _whole(options: Mapping[str, Any], option: str, default: int, least: int = 1) -> int:
    text = str(default if options.get(option) is None else options[option])
    if not text.isdigit() or int(text) < least:
        raise UserError(f"{option}={text}: give a whole number from {least} on")
    return int(text)
