"""Which of a node's GPUs a process uses, and whether JAX sees what the node has."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.distributed.environment import Place
from alpaca_jax.distributed.facts import Facts
from alpaca_jax.errors import UserError


def gpus(environ: Mapping[str, str] = os.environ, dev: Path = Path("/dev")) -> int:
    """Returns how many NVIDIA GPUs this process may see."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([each for each in visible.split(",") if each.strip() not in ("", "-1", "NoDevFiles")])
    return sum(path.name.removeprefix("nvidia").isdigit() for path in dev.glob("nvidia*"))


def neighbours(place: Place, members: Sequence[Facts]) -> tuple[int, int]:
    """Returns (rank, size) among the processes of this node: the launcher's numbers, else as counted from the members."""
    if place.local_rank is not None and place.local_size is not None:
        return place.local_rank, place.local_size
    here = [facts["rank"] for facts in members if facts["host"] == place.host]
    return here.index(place.rank), len(here)


def own(place: Place, members: Sequence[Facts], environ: Mapping[str, str] = os.environ, dev: Path = Path("/dev")) -> list[int] | None:
    """Returns the indices of the GPUs that this process uses, or None for all it sees.

    The only process of a node uses all of them (JAX alone would take one under Slurm and Open MPI); several processes share them equally.
    Processes that were given GPUs of their own, as by `srun --gpus-per-task`, see only those. A UserError if equal shares are impossible.
    """
    rank, size = neighbours(place, members)
    visible = {facts.get("visible_devices") for facts in members if facts["host"] == place.host}
    separate = len(visible) > 1 or any(environ.get(name) for name in ("SLURM_GPUS_PER_TASK", "JAX_LOCAL_DEVICE_IDS"))
    number = gpus(environ, dev)
    if size == 1 or separate or number <= 1:
        return None
    if number % size:
        raise UserError(
            f"rank {place.rank} on {place.host}: {number} GPUs can't be shared equally by the {size} processes of this node; "
            "start one process per node, or a number that divides the GPUs"
        )
    part = number // size
    return list(range(rank * part, (rank + 1) * part))


def check(seen: Sequence[Mapping[str, Any]], members: Sequence[Facts], processes: int, expected: int | None) -> None:
    """Raises a UserError if JAX sees other processes or devices than it should.

    `seen` holds a mapping per rank: `devices` (local ones), `chip`, `platform` and `gpus` (those that the node has for it).
    """
    where = [f"rank {rank} on {facts['host']}" for rank, facts in enumerate(members)]
    if processes != len(members):
        raise UserError(
            f"JAX counts {processes} processes, but {len(members)} have joined: unset the JAX_ and TPU_ variables of another run"
        )
    for name, each in zip(where, seen, strict=True):
        if each["platform"] == "cpu" and each["gpus"] and not each["cpu_wanted"]:
            raise UserError(
                f"{name}: the node has {each['gpus']} GPUs, but JAX runs on its CPU: install alpaca-jax[cuda], check the driver, "
                "or set JAX_PLATFORMS=cpu if that is intended"
            )
    kinds: dict[tuple[int, str], list[str]] = {}
    for name, each in zip(where, seen, strict=True):
        kinds.setdefault((each["devices"], each["chip"]), []).append(name)
    if len(kinds) > 1:
        listing = "; ".join(f"{count} x {chip} at {', '.join(names[:8])}" for (count, chip), names in kinds.items())
        raise UserError(f"the processes see different devices: {listing}; a mesh needs the same on each: check the node that differs")
    total = sum(each["devices"] for each in seen)
    if expected is not None and total != expected:
        raise UserError(f"distributed.devices={expected}, but the {len(members)} processes see {total}: some nodes or devices are missing")
