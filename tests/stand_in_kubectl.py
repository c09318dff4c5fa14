"""A fake `kubectl` whose cluster is this machine: a JobSet's pods are processes, run by a small controller like JobSet's own.

It keeps its state and a log of its calls in the folder $STAND_IN.
"""

import base64
import datetime
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("STAND_IN", "."))
NOTE = "jobset.sigs.k8s.io/"
INDEX = "batch.kubernetes.io/job-completion-index"
TICK = 0.05


def install(folder: Path) -> Path:
    """Writes a program `kubectl` into `folder` and returns its path."""
    program = folder / "kubectl"
    program.write_text(f'#!/bin/sh\nSTAND_IN={folder} exec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    program.chmod(0o755)
    return program


def calls(folder: Path) -> list[list[str]]:
    """All calls so far."""
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def main(argv: list[str]) -> int:
    if argv[0] == "controller":
        return Controller(argv[1]).run()
    with open(FOLDER / "calls.jsonl", "a") as file:
        file.write(json.dumps(argv) + "\n")
    words = [word for word in argv if not word.startswith("--")]
    options = {key: value for key, _, value in (word[2:].partition("=") for word in argv if word.startswith("--"))}
    action, *names = words
    if (refusal := FOLDER / f"refuse-{action}").exists():
        print(refusal.read_text(), file=sys.stderr)
        return 1
    return {"create": _create, "apply": _apply, "get": _get, "logs": _logs, "delete": _delete}[action](names, options)


def _create(_: list[str], options: dict[str, str]) -> int:
    value = json.load(sys.stdin)
    if "dry-run" in options:
        return 0
    path = FOLDER / "jobset" / f"{value['metadata']['name']}.json"
    assert not path.exists(), "AlreadyExists"
    value["metadata"]["uid"] = uuid.uuid4().hex
    _write(path, value)
    nothing = subprocess.DEVNULL
    command = [sys.executable, __file__, "controller", path.stem]
    subprocess.Popen(command, start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing)
    print(json.dumps(value))
    return 0


def _apply(_: list[str], options: dict[str, str]) -> int:
    value = json.load(sys.stdin)
    assert value["kind"] == "Secret" and "server-side" in options
    _write(FOLDER / "secret" / f"{value['metadata']['name']}.json", value)
    return 0


def _get(names: list[str], _: dict[str, str]) -> int:
    kind, *name = names
    if kind == "pods":
        print(json.dumps({"items": [_read(path) for path in sorted((FOLDER / "pod").glob("*.json"))]}))
    elif (path := FOLDER / kind / f"{name[0]}.json").exists():
        print(json.dumps(_read(path)))
    return 0


def _logs(names: list[str], options: dict[str, str]) -> int:
    log, pod = FOLDER / "log" / names[0], FOLDER / "pod" / f"{names[0]}.json"
    seen = 0
    while True:
        over = not pod.exists() or "terminated" in _read(pod)["status"]["containerStatuses"][0]["state"]
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        for line in lines[seen:]:
            if line.partition(" ")[0] >= options.get("since-time", ""):
                print(line, end="", flush=True)
        seen = len(lines)
        if over:
            return 0
        time.sleep(TICK)


def _delete(names: list[str], _: dict[str, str]) -> int:
    path = FOLDER / "jobset" / f"{names[1]}.json"
    path.unlink()
    end = time.monotonic() + 30
    while (FOLDER / "controller").exists() and time.monotonic() < end:  # foreground: it waits for the pods
        time.sleep(TICK)
    return 0


class Controller:
    """Starts the pods of a JobSet, and restarts all of them if its policies say so."""

    def __init__(self, name: str) -> None:
        self.path = FOLDER / "jobset" / f"{name}.json"
        self.jobset = _read(self.path)
        [self.replicated] = self.jobset["spec"]["replicatedJobs"]
        self.job = self.replicated["template"]["spec"]
        self.name = name
        (FOLDER / "controller").write_text(str(os.getpid()))

    def run(self) -> int:
        policy = self.jobset["spec"]["failurePolicy"]
        for restarts in range(policy["maxRestarts"] + 1):
            end = self._attempt(restarts)
            final = any(end in rule["onJobFailureReasons"] for rule in policy["rules"])
            if end in ("deleted", "Completed") or final:
                break
        if end != "deleted":
            reason = "AllJobsCompleted" if end == "Completed" else "FailJobSetFailurePolicyAction" if final else "ReachedMaxRestarts"
            kind = "Completed" if end == "Completed" else "Failed"
            self._status(restarts, 0, conditions=[{"type": kind, "status": "True", "reason": reason, "message": "jobset has ended"}])
        (FOLDER / "controller").unlink()
        return 0

    def _attempt(self, restarts: int) -> str:
        """Runs all pods once; returns why the attempt ended."""
        self._forget()
        pods = [Pod(self, restarts, job, pod) for job in range(self.replicated["replicas"]) for pod in range(self.job["completions"])]
        end = None
        while end is None:
            self._status(restarts, len(pods))
            codes = [pod.poll() for pod in pods]
            failed = next((code for code in codes if code), None)
            if not self.path.exists():
                end = "deleted"
            elif failed is not None:
                end = "PodFailurePolicy" if self._is_final(failed) else "BackoffLimitExceeded"
            elif None not in codes:
                end = "Completed"
            time.sleep(TICK)
        for pod in pods:
            pod.end(self.job["template"]["spec"]["terminationGracePeriodSeconds"])
        if end == "deleted":
            self._forget()
        return end

    def _forget(self) -> None:
        for old in (FOLDER / "pod").glob("*.json"):
            old.unlink()

    def _is_final(self, code: int) -> bool:
        return any(code in rule["onExitCodes"]["values"] for rule in self.job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob")

    def _status(self, restarts: int, ready: int, **more: Any) -> None:
        if self.path.exists():
            counts = [{"name": "workers", "active": self.replicated["replicas"], "ready": ready and self.replicated["replicas"]}]
            _write(self.path, self.jobset | {"status": {"restarts": restarts, "replicatedJobsStatus": counts, **more}})


class Pod:
    """A process, its log with Kubernetes' timestamps, and its status in Kubernetes."""

    def __init__(self, controller: Controller, restarts: int, job: int, index: int) -> None:
        [container] = controller.job["template"]["spec"]["containers"]
        notes = {f"{NOTE}jobset-name": controller.name, f"{NOTE}replicatedjob-name": controller.replicated["name"]}
        notes |= {f"{NOTE}job-index": str(job), f"{NOTE}restart-attempt": str(restarts), INDEX: str(index)}
        self.name = f"{controller.name}-{controller.replicated['name']}-{job}-{index}-{uuid.uuid4().hex[:5]}"
        self.value = {"metadata": {"name": self.name, "annotations": notes}, "spec": {"nodeName": f"node-{job}-{index}"}}
        environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(index)}
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        for each in container["env"]:
            field = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "['']")
            environment[each["name"]] = each["value"] if "value" in each else notes[field.split("'")[1]]
        for each in container.get("envFrom", []):
            environment |= _secret(each["secretRef"]["name"])
        self.code: int | None = None
        (FOLDER / "log").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            container["command"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=FOLDER
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self._rest = b""
        self._say({"running": {}})

    def poll(self) -> int | None:
        """Copies new output to the log; returns the exit code once the process has ended."""
        code = self.process.poll()
        self._rest += self.process.stdout.read() or b""
        *lines, self._rest = self._rest.split(b"\n")
        with open(FOLDER / "log" / self.name, "a") as log:
            for line in lines:
                log.write(f"{_stamp()} {line.decode()}\n")
        if code is not None and self.code is None:
            self.code = code if code >= 0 else 128 - code
            self._say({"terminated": {"exitCode": self.code, "finishedAt": _stamp()[:19] + "Z"}})
        return self.code

    def end(self, grace: float) -> None:
        """Asks the process to save and exit, and kills it after `grace` seconds."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + grace
        while self.poll() is None:
            if time.monotonic() > end:
                self.process.kill()
            time.sleep(TICK)

    def _say(self, state: dict[str, Any]) -> None:
        status = {"containerStatuses": [{"name": "alpaca-jax", "state": state}]}
        _write(FOLDER / "pod" / f"{self.name}.json", self.value | {"status": status})


def _secret(name: str) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in _read(FOLDER / "secret" / f"{name}.json")["data"].items()}


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "000Z"


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
