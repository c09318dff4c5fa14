"""Which of a node's GPUs a process takes, and whether JAX sees what the node has."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.distributed.environment import Place
from alpaca_jax.distributed.facts import Facts
from alpaca_jax.errors import UserError


def gpus(environ: Mapping[str, str] = os.environ, dev: Path = Path("/dev")) -> int:
    """Returns how many GPUs of NVIDIA this process may see."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([each for each in visible.split(",") if each.strip() not in ("", "-1", "NoDevFiles")])
    return sum(path.name.removeprefix("nvidia").isdigit() for path in dev.glob("nvidia*"))


def neighbours(place: Place, members: Sequence[Facts]) -> tuple[int, int]:
    """Returns this process's number among those of its node and how many these are: as the launcher says, else as the members show."""
    if place.local_rank is not None and place.local_size is not None:
        return place.local_rank, place.local_size
    here = [facts["rank"] for facts in members if facts["host"] == place.host]
    return here.index(place.rank), len(here)


def own(place: Place, members: Sequence[Facts], environ: Mapping[str, str] = os.environ, dev: Path = Path("/dev")) -> list[int] | None:
    """Returns the numbers of the GPUs that this process takes, or None for all it sees.

    The only process of a node takes all of them (JAX alone would take one under Slurm and Open MPI); several take equal parts. Where
    each has been given its own, as by `srun --gpus-per-task`, all it sees are its own. UserError where the parts aren't equal.
    """
    rank, size = neighbours(place, members)
    found = [facts.get("visible_devices") for facts in members if facts["host"] == place.host]
    apart = len(set(found)) > 1 or any(environ.get(name) for name in ("SLURM_GPUS_PER_TASK", "JAX_LOCAL_DEVICE_IDS"))
    number = gpus(environ, dev)
    if size == 1 or apart or number <= 1:
        return None
    if number % size:
        raise UserError(
            f"rank {place.rank} on {place.host}: {number} GPUs are no equal parts for the {size} processes of this node; "
            "start one process a node, or as many as divide the GPUs"
        )
    part = number // size
    return list(range(rank * part, (rank + 1) * part))


def check(seen: Sequence[Mapping[str, Any]], members: Sequence[Facts], processes: int, expected: int | None) -> None:
    """Raises a UserError where JAX sees other processes or devices than there should be.

    `seen` holds a mapping a rank: `devices` (local ones), `chip`, `platform` and `gpus` (that the node has for it).
    """
    where = [f"rank {rank} on {facts['host']}" for rank, facts in enumerate(members)]
    if processes != len(members):
        raise UserError(
            f"JAX counts {processes} processes where {len(members)} have joined: unset the JAX_ and TPU_ variables of another run"
        )
    for name, each in zip(where, seen, strict=True):
        if each["platform"] == "cpu" and each["gpus"] and not each["cpu_wanted"]:
            raise UserError(
                f"{name}: the node has {each['gpus']} GPUs, but JAX runs on its CPU: install alpaca-jax[cuda], look at the driver, "
                "or set JAX_PLATFORMS=cpu if that is meant"
            )
    kinds: dict[tuple[int, str], list[str]] = {}
    for name, each in zip(where, seen, strict=True):
        kinds.setdefault((each["devices"], each["chip"]), []).append(name)
    if len(kinds) > 1:
        said = "; ".join(f"{count} x {chip} at {', '.join(names[:8])}" for (count, chip), names in kinds.items())
        raise UserError(f"the processes see different devices: {said}; a mesh needs the same at each: look at the node that differs")
    total = sum(each["devices"] for each in seen)
    if expected is not None and total != expected:
        raise UserError(f"distributed.devices={expected}, but the {len(members)} processes see {total}: some nodes or devices are missing")
