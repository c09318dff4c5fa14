"""What is asked of Slurm's commands. Accounting (`sacct`) is left out: many clusters have none."""

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


def node_address(name: str) -> str:
    """Returns the address at which Slurm itself reaches a node; its name need not resolve on the others."""
    return _fields(ask("scontrol", "show", "node", "--oneliner", name))["NodeAddr"]


def nodes(expression: str) -> list[str]:
    """Returns the names that stand in a list such as n[1-3,7]."""
    return ask("scontrol", "show", "hostnames", expression).split()


def partitions() -> list[str]:
    """Returns the names of the cluster's partitions."""
    return sorted(set(ask("sinfo", "--noheader", "--format=%R").split()))


def _of_a_job(name: str) -> bool:
    return name.startswith(("SLURM_", "SLURMD_")) and name != "SLURM_CONF"


def _fields(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)
