"""Watches a JobSet: writes its pods' logs and job.json. The job doesn't need this process; started again, it catches up."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpaca_jax import rundir
from alpaca_jax.cluster import checkout, logs, record
from alpaca_jax.cluster.gke import kubectl
from alpaca_jax.cluster.gke import pods as gke_pods
from alpaca_jax.cluster.job import State
from alpaca_jax.cluster.rank import log_of
from alpaca_jax.cluster.record import Record
from alpaca_jax.errors import Lost, UserError

POLL_SECONDS = 2.0  # a pod that ends sooner, and is deleted for the next attempt, leaves no log
PATIENCE = 150  # requests in a row that may fail
FINISH_SECONDS = 60.0  # for the logs to be complete
FILE = "jobset.json"  # the manifest, its uid on the cluster, and the number of the first attempt


def state_of(jobset: dict[str, Any]) -> tuple[State, str]:
    """Returns the state of a JobSet, and the reason in its own words."""
    status = jobset.get("status", {})
    for condition in status.get("conditions", []):
        kind = {"Completed": State.done, "Failed": State.failed, "Suspended": State.queued}.get(condition["type"])
        if kind is not None and condition["status"] == "True":
            reason = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
            return kind, "" if kind is State.done else reason
    pods = jobset["spec"]["replicatedJobs"][0]
    running = sum(each.get("active", 0) for each in status.get("replicatedJobsStatus", [])) >= pods.get("replicas", 1)
    ready = sum(each.get("ready", 0) + each.get("succeeded", 0) for each in status.get("replicatedJobsStatus", []))
    if running and ready:
        return State.running, ""
    return (State.restarting if status.get("restarts") else State.queued), "not all of its pods are running yet"


class Watch:
    """One JobSet, until it ends or is deleted."""

    def __init__(self, job_record: Record, say: Callable[[str], None], show: Callable[[str], None] = lambda text: None) -> None:
        self.record, self.say, self.show = job_record, say, show
        self.job = job_record.job
        self._jobset = rundir.read_json(self.job.folder / FILE)
        self.uid, self.first = self._jobset["uid"], self._jobset["first_attempt"]
        self.pods_each = self._jobset["manifest"]["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"]
        self._logs: dict[tuple[int, int], gke_pods.Log] = {}

    def run(self) -> int:
        """Returns the exit code of the job's last attempt."""
        self.record.launcher = record.this_process()
        self.record.write()
        failures = 0
        while True:
            try:
                jobset = kubectl.get(self.job.options, "jobset", self.job.name)
                pods = [] if jobset is None else kubectl.pods(self.job.options, self.job.name)
                failures = 0
            except UserError:
                failures += 1
                if failures > PATIENCE:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            if jobset is None or jobset["metadata"]["uid"] != self.uid:
                return self._finish(State.cancelled, "its JobSet was deleted", None)
            restarts = jobset.get("status", {}).get("restarts", 0)
            self._attempts(restarts, begun=bool(pods))
            self._follow([pod for pod in pods if gke_pods.attempt_of(pod) <= restarts])
            state, reason = state_of(jobset)
            if state.final:
                return self._finish(state, reason, 0 if state is State.done else None)
            self._report(state, reason, pods)
            time.sleep(POLL_SECONDS)

    def _follow(self, pods: list[dict[str, Any]]) -> None:
        if self.first is None:
            return
        for pod in pods:
            key = (gke_pods.attempt_of(pod), gke_pods.rank_of(pod, self.pods_each))
            if key not in self._logs and gke_pods.has_started(pod):
                folder = logs.folder_of(self.job.folder, self.first + key[0])
                folder.mkdir(parents=True, exist_ok=True)
                show = self.show if key[1] == 0 else lambda text: None
                self._logs[key] = gke_pods.Log(self.job.options, pod, key[1], log_of(folder, key[1]), show)

    def _attempts(self, restarts: int, begun: bool) -> None:
        """Closes in job.json the attempts that the JobSet has finished, and begins the current one."""
        while begun and (self.first is None or self.record.attempts[-1].number < self.first + restarts):
            if self.record.broken is not None:
                code = self._end(self.record.broken.number)
                self.record.settle(State.restarting, f"attempt {self.record.attempts[-1].number} ended with exit code {code}")
            attempt = self.record.begin()
            if self.first is None:
                self.first = attempt.number
                rundir.write_json(self.job.folder / FILE, self._jobset | {"first_attempt": self.first})
            if notice := checkout.write_diff(logs.folder_of(self.job.folder, attempt.number)):
                self.say(f"{notice} (the image may have been built from another one)")

    def _end(self, number: int) -> int:
        for (restart, _), log in self._logs.items():
            if self.first + restart == number:
                log.finish(FINISH_SECONDS)
        ends = logs.ends(logs.folder_of(self.job.folder, number), self.job.processes)
        code = logs.exit_code(ends)
        self.record.end(code)
        if failure := logs.explain(ends):
            self.say(failure)
        return code

    def _finish(self, state: State, reason: str, code: int | None) -> int:
        if self.record.broken is not None:
            ended = self._end(self.record.broken.number)
            code = ended if code is None else code
        self.record.exit_code = Lost.exit_code if code is None else code
        self.record.settle(state, reason)
        self.say(f"the job {self.job.name}: {state.value}{f' ({reason})' if reason else ''}")
        return self.record.exit_code

    def _report(self, state: State, reason: str, pods: list[dict[str, Any]]) -> None:
        stuck = next((f"{pod['metadata']['name']}: {why}" for pod in pods if (why := gke_pods.trouble(pod))), "")
        if (self.record.state, self.record.reason) != (state, stuck or reason):
            self.record.settle(state, stuck or reason)
            self.say(f"the job {self.job.name}: {state.value}{f' ({self.record.reason})' if self.record.reason else ''}")


def watch(folder: Path, say: Callable[[str], None], show: Callable[[str], None] = lambda text: None) -> int:
    """Watches the job that job.json in `folder` describes; returns its exit code."""
    return Watch(record.read(folder), say, show).run()
