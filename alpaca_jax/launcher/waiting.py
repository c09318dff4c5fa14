"""Waits for the jobs of a sweep. Ctrl-C once leaves them running, twice ends them."""

import dataclasses
from collections.abc import Sequence
from time import sleep

from alpaca_jax.jobs import actions, status, trust
from alpaca_jax.jobs.status import Row
from alpaca_jax.jobs.sweep import Entry, Sweep
from alpaca_jax.jobs.watch import watch
from alpaca_jax.terminal import Console

AGAIN_SECONDS = 5.0  # for the second Ctrl-C


class Detached(Exception):
    """The jobs keep running, and this process no longer waits for them."""

    def __init__(self, message: str, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted


def wait(jobs: Sweep, entries: Sequence[Entry], poll_seconds: float, console: Console) -> Sequence[Row]:
    """Returns a row for each job once all have ended; raises Detached after Ctrl-C."""
    try:
        return watch(lambda: status.look(jobs, entries), poll_seconds, console)
    except KeyboardInterrupt:
        _leave(jobs, entries, console)
    again = f"alpaca-jax jobs dir={jobs.folder}"
    raise Detached(f"the jobs keep running; {again} shows them, and the same sweep command waits for them again", interrupted=True)


def _leave(jobs: Sweep, entries: Sequence[Entry], console: Console) -> None:
    """Leaves the jobs running, but gives the user time for a second Ctrl-C, which ends them."""
    console.print(f"the jobs keep running. Ctrl-C again within {AGAIN_SECONDS:.0f} s ends them", highlight=False)
    try:
        sleep(AGAIN_SECONDS)
    except KeyboardInterrupt:
        console.print("ending the jobs ...", highlight=False)
        own = [entry for entry in jobs.entries if entry in entries or not trust.doubt(jobs, entry)]
        names = actions.cancel(dataclasses.replace(jobs, entries=own), trusted=True)
        message = f"cancelled: {', '.join(names) or 'nothing ran'}; the same sweep continues from the last checkpoints"
        raise Detached(message, interrupted=True) from None
