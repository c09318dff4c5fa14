"""What a process tells the others of itself before the job begins."""

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
    """Returns what rank 0 compares, as JSON holds it: where this process is, its versions, its code and the settings it was given."""
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
        "clock": time.time(),  # set anew when it is sent
    }


def versions() -> dict[str, str]:
    """Returns the version of Python (without its last number) and of each package that a difference between processes could break."""
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "alpaca-jax": alpaca_jax.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def code() -> str | None:
    """Returns the commit this package runs from, with a digest of what was changed since; None where it is installed outside of git."""
    package = Path(alpaca_jax.__file__).resolve().parent
    # A virtual environment may lie in somebody else's checkout, which says nothing of this package.
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
    """The address that this host reaches the coordinator from, or "" where that cannot be told."""
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
