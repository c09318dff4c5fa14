"""What a process tells the lead about itself before the job begins."""

import hashlib
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import alpaca_jax
from alpaca_jax.distributed import environment
from alpaca_jax.distributed.environment import Place

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
Facts = dict[str, Any]


def gather(place: Place, config: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Facts:
    """Returns what the lead compares, as JSON: where this process runs, its versions, its code and its settings."""
    settings = dict(_leaves({key: value for key, value in config.items() if key != "distributed"}))
    return {
        "rank": place.rank,
        "size": place.size,
        "attempt": place.attempt,
        "kind": place.kind,
        "host": place.host,
        "address": _address(place),
        "pid": os.getpid(),
        "local": [place.local_rank, place.local_size],
        "visible_devices": environ.get("CUDA_VISIBLE_DEVICES"),
        "versions": versions(),
        "code": code(),
        "config": settings,
        "digest": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "stale": environment.stale(place, environ),
        "clock": time.time(),  # set again when it is sent
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python (major and minor) and of each package that must be the same in all processes."""
    installed = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "alpaca-jax": alpaca_jax.__version__}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "absent"
    return installed


def code() -> str | None:
    """Returns the commit this package runs from, plus a digest of uncommitted changes; None if it doesn't run from git."""
    package = Path(alpaca_jax.__file__).resolve().parent
    # A virtual environment may lie in somebody else's checkout, which says nothing about this package.
    if (
        _git(package, "ls-files", "--error-unmatch", "__init__.py") is None
        or (commit := _git(package, "rev-parse", "--short=12", "HEAD")) is None
    ):
        return None
    changed = _git(package, "diff", "HEAD", "--", ".") or ""
    return commit.strip() + (f"+{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if changed.strip() else "")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), "-c", "safe.directory=*", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _address(place: Place) -> str:
    """The address from which this host reaches the coordinator, "" if that isn't known."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
            probe.connect(place.address)
            return probe.getsockname()[0]
    except OSError:
        return ""


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, json.dumps(value, default=str)
