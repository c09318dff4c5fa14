"""`alpaca-jax jobs`: reads job.json and sweep.json, and asks the backend that they name."""

from pathlib import Path

from alpaca_jax.cluster import record
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import actions, backends, reading, status, sweep, trust
from alpaca_jax.jobs.backends import job_status
from alpaca_jax.jobs.config import Config
from alpaca_jax.jobs.sweep import Sweep
from alpaca_jax.jobs.watch import watch
from alpaca_jax.masking import masked, visible
from alpaca_jax.terminal import Console


def run(config: Config) -> None:
    """Carries out `action` on the job or the sweep in `dir`."""
    jobs = sweep.find(Path(config.dir).expanduser())
    if not jobs.entries:
        raise UserError(f"{jobs.folder / sweep.FILE} has no jobs; start the sweep again, or give another dir=")
    console = Console()
    match config.action:
        case "status":
            _status(jobs, config, console)
        case "logs":
            _logs(jobs, config)
        case "cancel":
            _report(console, "cancelled", actions.cancel(jobs, config.trust), "nothing was queued or running")
        case "resume":
            _report(console, "started again", actions.resume(jobs, config.trust), "no job had failed, been cancelled or got lost")


def _status(jobs: Sweep, config: Config, console: Console) -> None:
    rows = watch(lambda: status.look(jobs), config.poll_seconds, console) if config.follow else status.look(jobs)
    console.print(status.table(rows))


def _logs(jobs: Sweep, config: Config) -> None:
    def say(text: str) -> None:
        print(masked(visible(text)), flush=True)

    for entry in jobs.entries:
        running = record.exists(entry.job.folder) and not job_status(jobs.runs_on(), entry.job.folder).state.final
        if running and (config.trust or not trust.doubt(jobs, entry)):
            backends.fetch_logs(jobs.backend, entry.job.folder)
    if config.follow:
        reading.follow(jobs, config.rank, config.lines, config.poll_seconds, say)
    else:
        reading.show(jobs, config.rank, config.lines, say)


def _report(console: Console, what: str, names: list[str], otherwise: str) -> None:
    text = f"{what}: {', '.join(names)}" if names else otherwise
    console.print(text, highlight=False, markup=False, soft_wrap=True)
