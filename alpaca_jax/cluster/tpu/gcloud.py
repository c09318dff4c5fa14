"""gcloud: everything that asks Google Cloud goes through here. ALPACA_JAX_GCLOUD names another program."""

import json
from collections.abc import Mapping
from typing import Any

from alpaca_jax.cluster import command as commands
from alpaca_jax.errors import UserError

VARIABLE = "ALPACA_JAX_GCLOUD"
SECONDS = 900.0  # a deletion waits for its machines


def command(options: Mapping[str, Any], *arguments: str) -> list[str]:
    """Returns a command line of `gcloud compute tpus` with the zone and project from a job's options."""
    program = commands.program("gcloud", VARIABLE, "install Google Cloud's CLI and log in (gcloud auth login)")
    where = [f"--{key}={options[key]}" for key in ("zone", "project") if options.get(key)]
    return [program, "compute", "tpus", *arguments, *where, "--quiet"]


def ask(options: Mapping[str, Any], *arguments: str) -> str:
    """Returns what gcloud prints; a UserError says what it complains of."""
    return commands.ask(command(options, *arguments), f"gcloud {' '.join(arguments[:3])}", SECONDS)


def describe(options: Mapping[str, Any], kind: str, name: str) -> dict[str, Any] | None:
    """Returns Google's description of a resource (`kind`: tpu-vm, tpu-vm versions, ...), None if there is none of this name."""
    if name.startswith("-"):
        raise UserError(f"{name!r} is not the name of a resource: gcloud would take it for an option")
    try:
        return json.loads(ask(options, *kind.split(), "describe", name, "--format=json"))
    except UserError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise
