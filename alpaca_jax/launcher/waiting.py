"""Waiting for the jobs of a sweep, and what Ctrl-C means meanwhile: once, leave them; twice, end them."""

from collections.abc import Sequence
from time import sleep

from rich.console import Console

from alpaca_jax.jobs import actions, status
from alpaca_jax.jobs.status import Row
from alpaca_jax.jobs.sweep import Entry, Sweep
from alpaca_jax.jobs.watch import watch

AGAIN_SECONDS = 5.0  # in which a second Ctrl-C ends the jobs


class Detached(Exception):
    """The jobs go on, and nobody here waits for them any more."""

    def __init__(self, message: str, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted


def wait(found: Sweep, entries: Sequence[Entry], poll_seconds: float, console: Console) -> Sequence[Row]:
    """Returns a row for each job once all have ended; raises Detached after Ctrl-C."""
    try:
        return watch(lambda: status.look(found, entries), poll_seconds, console)
    except KeyboardInterrupt:
        _leave(found, console)
    again = f"alpaca-jax jobs dir={found.folder}"
    raise Detached(f"the jobs go on; {again} shows them, and the same sweep waits for them again", interrupted=True)


def _leave(found: Sweep, console: Console) -> None:
    """Gives a person the time for a second Ctrl-C, which ends the jobs."""
    console.print(f"the jobs go on. Ctrl-C once more within {AGAIN_SECONDS:.0f} s ends them", highlight=False)
    try:
        sleep(AGAIN_SECONDS)
    except KeyboardInterrupt:
        console.print("ending the jobs ...", highlight=False)
        names = actions.cancel(found)
        message = f"cancelled: {', '.join(names) or 'nothing ran'}; the same sweep goes on from the last checkpoints"
        raise Detached(message, interrupted=True) from None
