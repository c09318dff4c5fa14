"""What is asked of Slurm's commands. Accounting (`sacct`) is left out: many clusters have none."""

import dataclasses
import os
import re
import shutil
import subprocess

from alpaca_jax.cluster.job import State, clean_environment
from alpaca_jax.errors import UserError

SECONDS = 60.0  # for one command to answer

# Slurm's words for a job; what isn't here (COMPLETING, SIGNALING, STAGE_OUT ...) is a job that still holds its nodes.
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
    "COMPLETED": State.lost,  # a supervisor that came to its end would have said so in job.json
    "PREEMPTED": State.lost,
    "NODE_FAIL": State.lost,
    "FAILED": State.failed,
    "TIMEOUT": State.failed,
    "DEADLINE": State.failed,
    "OUT_OF_MEMORY": State.failed,
    "BOOT_FAIL": State.failed,
}


def ask(*command: str, text: str = "") -> str:
    """Returns what one of Slurm's commands prints; raises a UserError with what it complains of."""
    if shutil.which(command[0]) is None:
        raise UserError(f"there is no Slurm here: {command[0]} is not on the PATH; launch from a login node, or choose another backend")
    try:
        found = subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS, env=outside_environment())
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} gave no answer in {SECONDS:.0f} s: is Slurm's controller up? (scontrol ping)") from error
    if found.returncode != 0:
        raise UserError(f"Slurm refuses ({' '.join(command[:2])}): {complaint(found.stderr or found.stdout)}")
    return found.stdout


def complaint(text: str) -> str:
    """Returns the lines of a command's complaint in one, without the command's name before each."""
    return "; ".join(re.sub(r"^\w+: (error: |fatal: )?", "", line) for line in text.splitlines() if line.strip())


def outside_environment() -> dict[str, str]:
    """Returns the environment without what the job that this runs in was told of itself: srun and sbatch would take it as options."""
    inside = "SLURM_JOB_ID" in os.environ
    return {name: value for name, value in clean_environment().items() if not (inside and _of_a_job(name))}


def described(id: str) -> dict[str, str] | None:
    """Returns the fields of `scontrol show job`, None where Slurm has forgotten the job (some minutes after its end)."""
    try:
        text = ask("scontrol", "show", "job", "--oneliner", id)
    except UserError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    return _fields(text.splitlines()[0])


def signals_whole_trees() -> bool:
    """True where the cluster signals what a task has started as well as the task; with cgroups it signals the task alone."""
    return "proctrack/linuxproc" in ask("scontrol", "show", "config")


def node_address(name: str) -> str:
    """Returns the address at which Slurm itself reaches a node; its name need not resolve on the others."""
    return _fields(ask("scontrol", "show", "node", "--oneliner", name))["NodeAddr"]


def nodes(expression: str) -> list[str]:
    """Returns the names that stand in a list such as n[1-3,7]."""
    return ask("scontrol", "show", "hostnames", expression).split()


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition's limits on one job; None is no limit."""

    name: str
    default: bool
    up: bool
    minutes: float | None
    nodes: int | None


def partitions() -> dict[str, Partition]:
    """Returns the cluster's partitions by name."""
    found = {}
    for line in ask("sinfo", "--noheader", "--format=%R|%P|%a|%l|%s").splitlines():
        name, starred, available, limit, size = line.split("|")
        nodes = size.split("-")[-1]
        found[name] = Partition(name, starred.endswith("*"), available == "up", _minutes(limit), int(nodes) if nodes.isdigit() else None)
    return found


def _minutes(text: str) -> float | None:
    """Reads Slurm's [days-]hours:minutes:seconds; None for words such as infinite."""
    if not (found := re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def _of_a_job(name: str) -> bool:
    return name.startswith(("SLURM_", "SLURMD_")) and name != "SLURM_CONF"


def _fields(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)
