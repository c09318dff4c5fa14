"""A fake `gcloud` whose TPU workers are processes on this machine. It keeps its state and a log of its calls in the folder $STAND_IN."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ACCELERATORS = {"v4-16": 2, "v4-8": 1, "v5litepod-16": 4}  # hosts
VERSIONS = ("tpu-ubuntu2204-base",)
FOLDER = Path(os.environ.get("STAND_IN", "."))


def install(folder: Path) -> Path:
    """Writes a program `gcloud` into `folder` and returns its path."""
    program = folder / "gcloud"
    program.write_text(f'#!/bin/sh\nSTAND_IN={folder} exec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    program.chmod(0o755)
    return program


def calls(folder: Path) -> list[list[str]]:
    """All calls so far, without the arguments they have in common."""
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()] if (folder / "calls.jsonl").exists() else []


def make_tpu(folder: Path, name: str, hosts: int, state: str = "READY") -> None:
    """Creates a slice that is ready."""
    ends = [{"ipAddress": f"127.0.0.{1 + worker}", "port": 8470} for worker in range(hosts)]
    _write(folder / "tpu-vm" / f"{name}.json", {"name": name, "state": state, "networkEndpoints": ends})
    for worker in range(hosts):
        (folder / "homes" / f"{name}-{worker}").mkdir(parents=True, exist_ok=True)


def preempt(folder: Path, name: str) -> None:
    """Preempts a slice: its machines die, and its queued resource is suspended."""
    _write(folder / "queued-resources" / f"{name}.json", {"state": {"state": "SUSPENDED"}})
    (folder / "tpu-vm" / f"{name}.json").unlink()
    for pid in sorted((folder / "pids").glob(f"{name}-*")):
        os.killpg(int(pid.read_text()), signal.SIGKILL)


def main(argv: list[str]) -> int:
    words = [word for word in argv[2:] if not word.startswith("--")]
    options = dict((word[2:] + "=").split("=", 1) for word in argv[2:] if word.startswith("--"))
    with open(FOLDER / "calls.jsonl", "a") as file:
        file.write(json.dumps(argv[2:]) + "\n")
    if (refusal := FOLDER / f"refuse-{words[1]}").exists():
        return _complain(refusal.read_text())
    if words[1] in ("accelerator-types", "versions"):
        words = words[1:]
    kind, action, *names = words
    if kind in ("accelerator-types", "versions"):
        known = ACCELERATORS if kind == "accelerator-types" else VERSIONS
        return _print({"name": names[0]}) if names[0] in known else _complain(f"NOT_FOUND: {names[0]}")
    if action == "scp":
        return _copy(*names)
    if action == "ssh":
        return _ssh(names[0], options["worker"].rstrip("="), options["command"].removesuffix("="))
    return {"describe": _describe, "create": _create, "delete": _delete}[action](kind, names[0], options)


def _describe(kind: str, name: str, _: dict) -> int:
    path = FOLDER / kind / f"{name}.json"
    if not path.exists():
        return _complain(f"ERROR: (gcloud) NOT_FOUND: Resource {name} was not found")
    found = json.loads(path.read_text())
    if kind == "queued-resources" and found["state"]["state"] == "WAITING_FOR_RESOURCES":
        if (FOLDER / "fail").exists():
            error = {"error": {"message": (FOLDER / "fail").read_text()}}
            return _print(found | {"state": {"state": "FAILED", "failedData": error}})
        hosts = ACCELERATORS[found["accelerator"]]
        for each in found["nodes"]:
            make_tpu(FOLDER, each, hosts)
        _write(path, found | {"state": {"state": "ACTIVE"}})
    return _print(found)


def _create(kind: str, name: str, options: dict) -> int:
    options = {key: value.removesuffix("=") for key, value in options.items()}
    nodes = [options["node-id"]] if "node-id" in options else [f"{options['node-prefix']}-{n}" for n in range(int(options["node-count"]))]
    _write(
        FOLDER / kind / f"{name}.json",
        {"state": {"state": "WAITING_FOR_RESOURCES"}, "accelerator": options["accelerator-type"], "nodes": nodes},
    )
    return 0


def _delete(kind: str, name: str, _: dict) -> int:
    found = json.loads((FOLDER / kind / f"{name}.json").read_text())
    for node in found.get("nodes", []):
        (FOLDER / "tpu-vm" / f"{node}.json").unlink(missing_ok=True)
    (FOLDER / kind / f"{name}.json").unlink()
    return 0


def _copy(source: str, target: str) -> int:
    name, _, path = target.partition(":")
    homes = list((FOLDER / "homes").glob(f"{name}-*"))
    for home in homes:
        shutil.copy(source, home / path)
    return 0 if homes else _complain("no such TPU")


def _ssh(name: str, worker: str, command: str) -> int:
    home = FOLDER / "homes" / f"{name}-{worker}"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TPU_WORKER_ID": worker, "JAX_PLATFORMS": "cpu"}
    # In its own session, as at the other end of a real connection.
    process = subprocess.Popen(["sh", "-c", command], cwd=home, env=environment, start_new_session=True)
    (FOLDER / "pids").mkdir(exist_ok=True)
    (FOLDER / "pids" / f"{name}-{worker}").write_text(str(process.pid))
    code = process.wait()
    return code if code >= 0 else 255


def _write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _print(value: dict) -> int:
    print(json.dumps(value))
    return 0


def _complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
