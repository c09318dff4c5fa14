"""Google's command line: everything that asks it something goes through here. ALPACA_JAX_GCLOUD names another program in its place."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from alpaca_jax.errors import UserError

VARIABLE = "ALPACA_JAX_GCLOUD"
SECONDS = 900.0  # a deletion waits for its machines


def command(options: Mapping[str, Any], *arguments: str) -> list[str]:
    """Returns the command line of `gcloud compute tpus` with the zone and project of a job's options."""
    program = os.environ.get(VARIABLE, "gcloud")
    if shutil.which(program) is None:
        raise UserError(f"there is no {program} on the PATH: install Google Cloud's CLI and log in (gcloud auth login), or set {VARIABLE}")
    where = [f"--{key}={options[key]}" for key in ("zone", "project") if options.get(key)]
    return [program, "compute", "tpus", *arguments, *where, "--quiet"]


def ask(options: Mapping[str, Any], *arguments: str) -> str:
    """Returns what gcloud prints; a UserError with what it complains of."""
    line = command(options, *arguments)
    try:
        found = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"gcloud {' '.join(arguments[:2])} gave no answer in {SECONDS:.0f} s; see to the connection") from error
    if found.returncode != 0:
        complaint = " ".join((found.stderr or found.stdout).split())[-600:]
        raise UserError(f"gcloud {' '.join(arguments[:3])}: {complaint or f'exit code {found.returncode}'}")
    return found.stdout


def describe(options: Mapping[str, Any], kind: str, name: str) -> dict[str, Any] | None:
    """Returns what Google knows of a thing (`kind`: tpu-vm, tpu-vm versions, ...), None where there is none of this name."""
    try:
        return json.loads(ask(options, *kind.split(), "describe", name, "--format=json"))
    except UserError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise
