"""Mistakes in a JobSet that Kubernetes accepts, although the job then hangs, dies or restarts for ever."""

import math
import re
from collections.abc import Iterator
from typing import Any

from alpaca_jax.cluster.gke.manifest import API_VERSION, CHECKPOINT_SECONDS, TPUS
from alpaca_jax.cluster.job import restartable
from alpaca_jax.errors import UserError

NAME_LIMIT = 63
RANDOM_CHARACTERS = 5  # that Kubernetes adds to a pod's name
SPOT_SECONDS = 15  # between SIGTERM and the end of a spot node, whatever the grace period (GKE's documentation of Spot VMs, read 2026-11)
CHIPS_PER_HOST = {2: (1, 4, 8), 3: (4,)}  # by the number of dimensions of the topology
RESTARTABLE, FINAL = (134, 137, 143, 200, 201), (1, 2, 130)
TPU, TOPOLOGY = "cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology"


def check(manifest: dict[str, Any]) -> None:
    """Raises a UserError for the first rule that the JobSet breaks: what, where, and the remedy."""
    if manifest.get("apiVersion") != API_VERSION or manifest.get("kind") != "JobSet":
        found = f"apiVersion is {manifest.get('apiVersion')!r} and kind is {manifest.get('kind')!r}"
        raise UserError(f"{found}: not a JobSet of {API_VERSION}")
    _check_failure_policy(manifest["spec"])
    for where, replicated, job in _jobs(manifest):
        _check_name(manifest["metadata"]["name"], where, replicated, job)
        _check_counts(where, job)
        _check_restarts(where, job)
        _check_topology(where, replicated, job)
        _check_grace(where, manifest, job)


def _jobs(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for replicated in manifest["spec"]["replicatedJobs"]:
        yield f"replicatedJobs {replicated['name']}", replicated, replicated["template"]["spec"]


def _check_name(name: str, where: str, replicated: dict[str, Any], job: dict[str, Any]) -> None:
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        raise UserError(
            f"the name {name!r} is not valid in Kubernetes: give one of lower-case letters, digits and '-' that begins with a letter"
        )
    longest = f"{name}-{replicated['name']}-{replicated.get('replicas', 1) - 1}-{job.get('completions', 1) - 1}-{'x' * RANDOM_CHARACTERS}"
    if len(longest) > NAME_LIMIT:
        over = len(longest) - NAME_LIMIT
        raise UserError(f"{where}: its pods would be called {longest} ({len(longest)} characters): shorten the name by {over}")


def _check_counts(where: str, job: dict[str, Any]) -> None:
    if job.get("completionMode") != "Indexed":
        raise UserError(f"{where}: completionMode is {job.get('completionMode')}, so no pod knows its rank; set Indexed")
    completions, parallelism = job.get("completions"), job.get("parallelism")
    if completions != parallelism:
        raise UserError(
            f"{where}: completions={completions} and parallelism={parallelism}: all hosts run at once, so set both to the number of hosts"
        )


def _check_failure_policy(spec: dict[str, Any]) -> None:
    policy = spec.get("failurePolicy") or {}
    if "maxRestarts" not in policy:
        raise UserError("failurePolicy.maxRestarts is absent, so the first preemption ends the job; set a number, such as 3")
    first: dict[str, Any] = next(iter(policy.get("rules") or []), {})
    if first.get("action") != "FailJobSet" or "PodFailurePolicy" not in first.get("onJobFailureReasons", []):
        raise UserError(
            "failurePolicy.rules: the first is not FailJobSet for PodFailurePolicy, so a user's mistake is restarted; put that rule first"
        )


def _check_restarts(where: str, job: dict[str, Any]) -> None:
    pod = job["template"]["spec"]
    policy = job.get("podFailurePolicy")
    if policy and pod.get("restartPolicy") != "Never":
        raise UserError(
            f"{where}: podFailurePolicy with restartPolicy {pod.get('restartPolicy')} is accepted by Kubernetes and then hangs; set Never"
        )
    if pod.get("restartPolicy") != "Never":
        raise UserError(f"{where}: restartPolicy {pod.get('restartPolicy')} restarts one rank without its peers; set Never")
    if job.get("backoffLimit", 6) != 0:
        raise UserError(f"{where}: backoffLimit={job.get('backoffLimit', 'absent: 6')} restarts one rank without its peers; set 0")
    rules = [rule for rule in (policy or {}).get("rules", []) if "onExitCodes" in rule]
    if wrong := [code for code in RESTARTABLE if restartable(code) and _fails(rules, code)]:
        raise UserError(f"{where}: podFailurePolicy fails the job for the exit codes {wrong}, which a restart can fix; remove them")
    if absent := [code for code in FINAL if not _fails(rules, code)]:
        raise UserError(f"{where}: podFailurePolicy restarts after the exit codes {absent}, which no restart can fix; add them to FailJob")


def _fails(rules: list[dict[str, Any]], code: int) -> bool:
    for rule in rules:
        codes = rule["onExitCodes"]
        if (code in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"] == "FailJob"
    return False


def _check_topology(where: str, replicated: dict[str, Any], job: dict[str, Any]) -> None:
    pod = job["template"]["spec"]
    selector = pod.get("nodeSelector", {})
    per_host = sum(int(each.get("resources", {}).get("limits", {}).get("google.com/tpu", 0)) for each in pod["containers"])
    if not per_host and TPU not in selector:
        return
    kind, topology = selector.get(TPU), selector.get(TOPOLOGY, "")
    if kind not in TPUS:
        raise UserError(f"{where}: {TPU} is {kind}: unknown (this version knows {', '.join(TPUS)})")
    sides = topology.split("x")
    if len(sides) != TPUS[kind] or not all(side.isdigit() for side in sides):
        shape = "x".join("N" * TPUS[kind])
        raise UserError(f"{where}: {TOPOLOGY} is {topology!r}, but a topology of {kind} has the form {shape}")
    chips, hosts = math.prod(map(int, sides)), job["completions"]
    if per_host * hosts != chips:
        raise UserError(
            f"{where}: {hosts} hosts with {per_host} chips each (google.com/tpu) are {per_host * hosts}; topology {topology} has {chips}"
        )
    if per_host not in CHIPS_PER_HOST[TPUS[kind]]:
        allowed = " or ".join(map(str, CHIPS_PER_HOST[TPUS[kind]]))
        raise UserError(f"{where}: a host of {kind} has {allowed} chips, not {per_host}; {hosts} hosts don't fit topology {topology}")
    if replicated.get("replicas", 1) > 1 and hosts == 1:
        raise UserError(
            f"{where}: {replicated['replicas']} slices of one host each: GKE joins only slices of several hosts; give a larger topology"
        )


def _check_grace(where: str, manifest: dict[str, Any], job: dict[str, Any]) -> None:
    pod = job["template"]["spec"]
    takes = int(manifest["metadata"].get("annotations", {}).get(CHECKPOINT_SECONDS, 0))
    grace = pod.get("terminationGracePeriodSeconds", 30)
    spot = pod.get("nodeSelector", {}).get("cloud.google.com/gke-spot") == "true"
    if spot and takes > SPOT_SECONDS:
        raise UserError(
            f"{where}: a spot node is gone after {SPOT_SECONDS} s, but saving takes {takes} s ({CHECKPOINT_SECONDS}): save more often, "
            "and set it to 0 to continue from the last checkpoint"
        )
    if grace < takes:
        raise UserError(f"{where}: terminationGracePeriodSeconds={grace} ends a pod before it has saved, which takes {takes} s; raise it")
