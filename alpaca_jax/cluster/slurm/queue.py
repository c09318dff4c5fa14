"""What this package asks of Slurm's commands. It doesn't use accounting (`sacct`), which many clusters lack."""

import dataclasses
import os
import re
import shutil

from alpaca_jax.cluster.command import ask as ask_command
from alpaca_jax.cluster.job import State, clean_environment
from alpaca_jax.errors import UserError

SECONDS = 60.0  # for a command to answer

# Slurm's states of a job; in those not listed (COMPLETING, SIGNALING, STAGE_OUT ...) it still holds its nodes.
STATES = {
    "PENDING": State.queued,
    "CONFIGURING": State.queued,
    "REQUEUED": State.queued,
    "REQUEUE_FED": State.queued,
    "REQUEUE_HOLD": State.queued,
    "SPECIAL_EXIT": State.queued,
    "RESV_DEL_HOLD": State.queued,
    "CANCELLED": State.cancelled,
    "REVOKED": State.cancelled,
    "COMPLETED": State.lost,  # a supervisor that ended normally would have said so in job.json
    "PREEMPTED": State.lost,
    "NODE_FAIL": State.lost,
    "FAILED": State.failed,
    "TIMEOUT": State.failed,
    "DEADLINE": State.failed,
    "OUT_OF_MEMORY": State.failed,
    "BOOT_FAIL": State.failed,
}


def ask(*command: str, text: str = "") -> str:
    """Returns what one of Slurm's commands prints; a UserError says what it complains of."""
    if shutil.which(command[0]) is None:
        raise UserError(f"there is no Slurm here: {command[0]} is not on the PATH; launch from a login node, or choose another backend")
    hint = "is Slurm's controller up? (scontrol ping)"
    return ask_command(
        command, f"Slurm refuses ({' '.join(command[:2])})", SECONDS, text=text, environment=outside_environment(), hint=hint
    )


def outside_environment() -> dict[str, str]:
    """Returns the environment without the variables of the job that this runs in: srun and sbatch would take them as options."""
    inside = "SLURM_JOB_ID" in os.environ
    return {name: value for name, value in clean_environment().items() if not (inside and _of_a_job(name))}


def described(id: str) -> dict[str, str] | None:
    """Returns the fields of `scontrol show job`, None once Slurm has forgotten the job (some minutes after its end)."""
    if not re.fullmatch(r"\d+([_+]\d+)?", id):
        raise UserError(f"{id!r} is not the number of a Slurm job")
    try:
        text = ask("scontrol", "show", "job", "--oneliner", id)
    except UserError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    return _fields(text.splitlines()[0])


def signals_whole_trees() -> bool:
    """True if the cluster signals a task and everything it has started; with cgroups it signals the task alone."""
    return "proctrack/linuxproc" in ask("scontrol", "show", "config")


def node_address(name: str) -> str:
    """Returns the address at which Slurm reaches a node, whose name need not resolve on the others."""
    return _fields(ask("scontrol", "show", "node", "--oneliner", name))["NodeAddr"]


def nodes(expression: str) -> list[str]:
    """Returns the names in a list such as n[1-3,7]."""
    return ask("scontrol", "show", "hostnames", expression).split()


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition's limits for one job; None means no limit."""

    name: str
    default: bool
    up: bool
    minutes: float | None
    nodes: int | None


def partitions() -> dict[str, Partition]:
    """Returns the cluster's partitions by name."""
    by_name = {}
    for line in ask("sinfo", "--noheader", "--format=%R|%P|%a|%l|%s").splitlines():
        name, starred, available, limit, size = line.split("|")
        nodes = size.split("-")[-1]
        by_name[name] = Partition(name, starred.endswith("*"), available == "up", _minutes(limit), int(nodes) if nodes.isdigit() else None)
    return by_name


def _minutes(text: str) -> float | None:
    """Reads Slurm's [days-]hours:minutes:seconds; None for words such as infinite."""
    if not (match := re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def _of_a_job(name: str) -> bool:
    return name.startswith(("SLURM_", "SLURMD_")) and name != "SLURM_CONF"


def _fields(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)
