"""Asks a reward model in a process of its own: a verb that needs no JAX otherwise doesn't import it, and its memory is free after."""

import json
import subprocess
import sys
from collections.abc import Sequence

from alpaca_jax.errors import UserError
from alpaca_jax.records import Record

MODULE = "alpaca_jax.scores.reward"


def rewards(source: str, records: Sequence[Record]) -> list[float]:
    """The reward of the last answer of each record by the run `source` of objective=reward; a UserError where it is none."""
    asked = [[record.instruction, record.input, record.system, record.output] for record in records]
    command = [sys.executable, "-W", "ignore", "-m", MODULE, source]
    done = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"the reward model {source} scored nothing: {said[-1] if said else f'exit code {done.returncode}'}")
    return json.loads(done.stdout)
