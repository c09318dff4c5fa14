"""`alpaca-jax jobs`: it reads job.json and sweep.json, and asks the backend that they name."""

from pathlib import Path

from rich.console import Console

from alpaca_jax.cluster import record
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import actions, backends, reading, status, sweep
from alpaca_jax.jobs.backends import job_status
from alpaca_jax.jobs.config import Config
from alpaca_jax.jobs.sweep import Sweep
from alpaca_jax.jobs.watch import watch


def run(config: Config) -> None:
    """Does what `action` says to the job or the sweep in `dir`."""
    found = sweep.find(Path(config.dir).expanduser())
    if not found.entries:
        raise UserError(f"{found.folder / sweep.FILE} names no job; start the sweep again, or give another dir=")
    console = Console()
    match config.action:
        case "status":
            _status(found, config, console)
        case "logs":
            _logs(found, config)
        case "cancel":
            _told(console, "cancelled", actions.cancel(found), "nothing of it was queued or running")
        case "resume":
            _told(console, "started again", actions.resume(found), "no job had failed, been cancelled or got lost")


def _status(found: Sweep, config: Config, console: Console) -> None:
    rows = watch(lambda: status.look(found), config.poll_seconds, console) if config.follow else status.look(found)
    console.print(status.table(rows))


def _logs(found: Sweep, config: Config) -> None:
    def say(text: str) -> None:
        print(text, flush=True)

    for entry in found.entries:
        if record.exists(entry.job.folder) and not job_status(found.runs_on(), entry.job.folder).state.final:
            backends.bring_logs(found.backend, entry.job.folder)
    if config.follow:
        reading.follow(found, config.rank, config.lines, config.poll_seconds, say)
    else:
        reading.show(found, config.rank, config.lines, say)


def _told(console: Console, what: str, names: list[str], otherwise: str) -> None:
    text = f"{what}: {', '.join(names)}" if names else otherwise
    console.print(text, highlight=False, markup=False, soft_wrap=True)
