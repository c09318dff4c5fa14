"""Runs one command of a cluster's command line (kubectl, gcloud, Slurm's) and turns what it complains of into a UserError."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from alpaca_jax.errors import UserError

MOST_CHARACTERS = 600  # of a complaint


def program(name: str, variable: str, remedy: str) -> str:
    """Returns `name`, or what the environment variable names instead; a UserError with the remedy where it isn't on the PATH."""
    named = os.environ.get(variable, name)
    if shutil.which(named) is None:
        raise UserError(f"there is no {named} on the PATH: {remedy}, or set {variable}")
    return named


def ask(
    line: Sequence[str],
    name: str,
    seconds: float,
    *,
    text: str = "",
    environment: Mapping[str, str] | None = None,
    hint: str = "check the connection",
) -> str:
    """Returns what the command prints; `text` is its standard input. A UserError begins with `name`, `hint` is the remedy for no answer."""
    try:
        done = subprocess.run(line, input=text, capture_output=True, text=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{name}: no answer in {seconds:.0f} s; {hint}") from error
    if done.returncode != 0:
        raise UserError(f"{name}: {_complaint(done.stderr or done.stdout, line[0]) or f'exit code {done.returncode}'}")
    return done.stdout


def _complaint(text: str, program: str) -> str:
    """The end of a command's complaint in one line, without the program's name in front of each line."""
    own = rf"^{re.escape(program)}: (error: |fatal: )?"
    lines = [re.sub(own, "", line.strip()) for line in text.splitlines() if line.strip()]
    return "; ".join(lines)[-MOST_CHARACTERS:]
