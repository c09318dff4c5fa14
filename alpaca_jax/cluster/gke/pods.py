"""The pods of a JobSet: which rank each one is, how it ended, and its log while it is written."""

import contextlib
import datetime
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from alpaca_jax import children
from alpaca_jax.cluster.gke import kubectl
from alpaca_jax.cluster.gke.manifest import CONTAINER
from alpaca_jax.cluster.job import now
from alpaca_jax.cluster.rank import TRACEBACK, line, values
from alpaca_jax.errors import UserError

PREFIX = "jobset.sigs.k8s.io/"
INDEX = "batch.kubernetes.io/job-completion-index"
AGAIN_SECONDS = 2.0  # before a log that broke off is requested again
TRIES = 30  # in a row without a new line


def attempt_of(pod: Mapping[str, Any]) -> int:
    """Returns how many times the JobSet had been restarted when it created this pod."""
    return int(_metadata(pod).get(f"{PREFIX}restart-attempt", 0))


def rank_of(pod: Mapping[str, Any], pods_each: int) -> int:
    """Returns the rank of a pod, in Jobs of `pods_each` pods."""
    return int(_metadata(pod).get(f"{PREFIX}job-index", 0)) * pods_each + int(_metadata(pod).get(INDEX, 0))


def has_started(pod: Mapping[str, Any]) -> bool:
    """True once its container runs or has run, so that there is a log."""
    return bool({"running", "terminated"} & _state(pod).keys())


def trouble(pod: Mapping[str, Any]) -> str:
    """Returns why a pod can't start, in Kubernetes' words, "" if no reason is known."""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message", ""))
    waiting = _state(pod).get("waiting", {})
    if waiting.get("reason") in (None, "ContainerCreating", "PodInitializing"):
        return ""
    return f"{waiting['reason']}: {waiting.get('message', '')}"


def _metadata(pod: Mapping[str, Any]) -> dict[str, str]:
    return pod["metadata"].get("labels", {}) | pod["metadata"].get("annotations", {})


def _state(pod: Mapping[str, Any]) -> dict[str, Any]:
    containers = pod.get("status", {}).get("containerStatuses", [])
    return next((each.get("state", {}) for each in containers if each["name"] == CONTAINER), {})


class Log:
    """Copies one pod's log into a file, in a thread, until the pod has ended."""

    def __init__(self, options: Mapping[str, Any], pod: Mapping[str, Any], rank: int, path: Path, show: Callable[[str], None]) -> None:
        self.options, self.name, self.rank, self.path, self.show = options, pod["metadata"]["name"], rank, path, show
        self.host = pod.get("spec", {}).get("nodeName", self.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._newest = ""  # Kubernetes' time of the last line
        self._ended = False  # the rank's own last line has arrived
        self._traceback: str | None = None
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Returns once everything is copied, after `seconds` at the latest."""
        self._thread.join(seconds)
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._thread.join()

    def _copy(self) -> None:
        failures = 0
        with open(self.path, "wb", buffering=0) as file:
            file.write(line(self.rank, self.host, pod=self.name, started=now()).encode())
            while not self._stopped and not self._ended and failures < TRIES:
                failures = 0 if self._follow(file) else failures + 1
                pod = self._pod()
                if pod is None:
                    break
                if ended := _state(pod).get("terminated"):
                    self._follow(file)  # what was written in between
                    self._close(file, ended)
                    break
                time.sleep(AGAIN_SECONDS)

    def _follow(self, file: BinaryIO) -> bool:
        """Copies until the stream ends; returns whether there was a new line."""
        since = [f"--since-time={self._newest}"] if self._newest else []
        command = kubectl.command(self.options, "logs", self.name, f"--container={CONTAINER}", "--follow", "--timestamps", *since)
        self._process = children.start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        before = self._newest
        with self._process.stdout as stream:
            for each in stream:
                stamp, _, text = each.partition(b" ")
                if stamp.decode() > before:  # --since-time repeats the lines of its second
                    self._take(file, stamp.decode(), text)
        self._process.wait()
        return self._newest > before

    def _take(self, file: BinaryIO, stamp: str, text: bytes) -> None:
        self._newest = stamp
        file.write(text)
        if TRACEBACK in text:
            self._traceback = stamp
        entry = values(text.decode(errors="replace"))
        if entry is None:
            self.show(text.decode(errors="replace"))
        elif "exit" in entry:
            self._ended = True

    def _close(self, file: BinaryIO, ended: Mapping[str, Any]) -> None:
        """Writes the last line for a rank that was killed before it could."""
        if not self._ended:
            when = _as_iso(ended["finishedAt"]) if ended.get("finishedAt") else now()
            traceback = _as_iso(self._traceback) if self._traceback else "none"
            file.write(line(self.rank, self.host, exit=ended.get("exitCode", 137), ended=when, traceback=traceback).encode())

    def _pod(self) -> dict[str, Any] | None:
        with contextlib.suppress(UserError):
            return kubectl.get(self.options, "pod", self.name)
        return {}  # no answer doesn't mean that the pod has ended


def _as_iso(stamp: str) -> str:
    """Kubernetes' time (nanoseconds, Z) in the format of a rank."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    when = datetime.datetime.fromisoformat(f"{whole}.{(fraction + '000')[:3]}+00:00")
    return when.isoformat(timespec="milliseconds")
