"""`alpaca-jax VERB -m ...`: checks every combination, runs them as jobs, and puts their results into one table."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alpaca_jax import config as configuration
from alpaca_jax import grammar, lock, rundir
from alpaca_jax.cluster import record
from alpaca_jax.composition.compose import explained, initialized
from alpaca_jax.composition.plugins import BASIC_SWEEPER, LAUNCHER
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import actions, backends, queue, sweep
from alpaca_jax.jobs.status import INTERRUPTED, Row
from alpaca_jax.jobs.sweep import Entry, Sweep
from alpaca_jax.launcher import combinations, results, sweeper
from alpaca_jax.launcher.config import LauncherConfig
from alpaca_jax.launcher.objective import Objective
from alpaca_jax.launcher.plugin import register
from alpaca_jax.launcher.waiting import Detached, wait
from alpaca_jax.masking import masked
from alpaca_jax.terminal import Console


class JobFailed(RuntimeError):
    """Tells a sweeper that searches for the best settings that a job has no objective."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A sweep as the command line asks for it."""

    verb: str
    overrides: Sequence[str]  # in Hydra's syntax
    arguments: Sequence[str]  # of each job's command, before its settings
    parse: Callable[[Mapping[str, Any]], Any]  # turns a composed mapping into the verb's Config; a UserError if it can't


def multirun(request: Request) -> int:
    """Runs the sweep; returns the largest exit code of its jobs, 130 if Ctrl-C ended the wait for them."""
    run = Multirun(request)
    try:
        with initialized(request.verb):
            run.go()
    except Detached as error:
        print(f"alpaca-jax: {error}", file=sys.stderr)
        return INTERRUPTED if error.interrupted else 0
    except JobFailed:
        pass  # the sweeper gave up; the table shows why
    return run.finish()


class Multirun:
    """One start of a sweep. The combinations come in one batch, or in several if the sweeper needs the results of earlier ones."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.console = Console(stderr=True)
        self.sweep: Sweep | None = None
        self.rows: dict[str, Row] = {}  # the jobs of this start, by name

    def go(self) -> None:
        """Has Hydra's sweeper generate the combinations, and pass them to `_launch`."""
        register()
        overrides = [*self.request.overrides]
        self._parse(overrides)
        if not any(override.partition("=")[0] == LAUNCHER for override in overrides):
            overrides.append(f"{LAUNCHER}=local")
        overrides.append("hydra.output_subdir=null")
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        with explained():
            base = hydra.compose_config(self.request.verb, overrides, RunMode.MULTIRUN, with_log_configuration=False)
        sweeper.check(base)
        settings = self._settings(OmegaConf.to_container(base.hydra.launcher, resolve=True))
        self.objective = Objective.of(settings)
        folder = combinations.folder_of(settings, self._dir(base))
        target = OmegaConf.select(base, "hydra.sweeper._target_")
        self.searching = target != BASIC_SWEEPER
        if settings.detach and (self.searching or OmegaConf.select(base, "hydra.sweeper.max_batch_size")):
            raise UserError("hydra.launcher.detach=true: this sweeper needs the results of each batch; leave detach out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} can't be made ({error.strerror or error}); give another dir=") from error
        if self.searching:
            overrides += sweeper.directed(overrides, self.objective)
        overrides += [f"hydra.sweep.dir={grammar.word(str(folder))}", "hydra.sweep.subdir=."]
        try:
            hydra.multirun(self.request.verb, self._launch, overrides, with_log_configuration=False)  # type: ignore[arg-type]
        except (UserError, HydraException, JobFailed, Detached):
            raise
        except Exception as error:
            if self.sweep is None and self.searching:  # before the first job: the sweeper doesn't like its settings
                raise UserError(f"hydra.sweeper: {' '.join(masked(str(error)).split())[:300]}") from error
            raise

    def finish(self) -> int:
        """Prints the results, writes sweep.json and the page; returns the largest exit code."""
        rows = list(self.rows.values())
        if self.sweep is None or not rows:
            raise UserError("the sweep has no combination; give key=a,b")
        results.write(self.sweep, rows)
        for line in results.failures(rows):
            self._say(line)
        Console().print(results.table(self.sweep, rows))
        self._say(f"{self.sweep.folder / results.PAGE}")
        objectives = [(row.entry.result or {}).get("objective") for row in rows if not row.exit_code]
        if objectives and all(objective is None for objective in objectives):
            self._say(f"no job has {self.sweep.objective}: train measures the held-out loss and suites with evaluate_every=N")
        return max(row.exit_code for row in rows)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _parse(self, overrides: Sequence[str]) -> None:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for each in parsed:
            if each.key_or_group == "dir" and each.is_sweep_override():
                raise UserError("dir: a sweep has one folder, and each of its jobs one below it; give one dir=")
        sweeper.check_size(parsed)
        self.fixed = {each.key_or_group for each in parsed if not each.is_sweep_override()}

    def _settings(self, mapping: Any) -> LauncherConfig:
        mapping.pop("_target_", None)
        return configuration.parse(LauncherConfig, mapping, "hydra.launcher")

    def _dir(self, base: DictConfig) -> str:
        try:
            return str(OmegaConf.select(base, "dir", throw_on_missing=True))
        except OmegaConfBaseException as error:
            raise UserError(f"dir: {str(error).splitlines()[0]}") from error

    def _launch(
        self, config: DictConfig, context: HydraContext, mapping: dict[str, Any], job_overrides: Sequence[Sequence[str]]
    ) -> Sequence[JobReturn]:
        """Runs one batch of combinations; none starts before all are checked."""
        settings = self._settings(dict(mapping))
        dir = self._dir(config)
        _mask(Path(config.hydra.sweep.dir) / "multirun.yaml")
        if self.sweep is None:
            self.sweep = _renewed(combinations.folder_of(settings, dir), self.request.verb, settings)
            self.sweep.mode = self.objective.mode
        nodes = settings.nodes or backends.nodes(settings.backend, combinations.options(settings))
        given = (self.fixed, self.request.arguments, dir, settings, nodes)
        entries = [combinations.entry(self.sweep, overrides, *given) for overrides in job_overrides]
        load = context.config_loader.load_sweep_config
        mappings = [
            combinations.composed(load(config, list(overrides)), one.dir) for one, overrides in zip(entries, job_overrides, strict=True)
        ]
        combinations.check(entries, mappings, self._parsed)
        for one, composed in zip(entries, mappings, strict=True):
            one.job = dataclasses.replace(one.job, secrets=tuple(sorted({*settings.secrets, *combinations.secrets(composed)})))
        rows = self._run(self.sweep, entries, settings)
        return [self._returned(row, overrides) for row, overrides in zip(rows, job_overrides, strict=True)]

    def _parsed(self, mapping: Mapping[str, Any]) -> None:
        self.objective.check(self.request.verb, self.request.parse(mapping), needed=self.searching)

    def _run(self, jobs: Sweep, entries: Sequence[Entry], settings: LauncherConfig) -> Sequence[Row]:
        with lock.held(jobs.folder, "", f"{jobs.verb} -m"):  # two starts at once would start each job twice
            todo = self._start(jobs, entries)
        if settings.detach:
            raise Detached(f"{len(todo)} jobs were started; see alpaca-jax jobs dir={jobs.folder}")
        rows = wait(jobs, entries, settings.poll_seconds, self.console)
        for row in rows:
            row.entry.result = results.result(row, jobs.objective)
            self.rows[row.entry.name] = row
        jobs.write()
        return rows

    def _start(self, jobs: Sweep, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Starts what has to be; returns that."""
        # A job that is done stays done; one that is running, from an earlier start of this sweep, is waited for.
        todo = [one for one in entries if not record.is_done(one.job) and not actions.active(jobs, one)]
        waiting = queue.read(jobs.folder)
        if waiting.alive is not None:
            todo = [one for one in todo if one.name not in waiting.waiting]
            if todo and jobs.parallel is not None:
                raise UserError(
                    f"the sweep in {jobs.folder} is being run; cancel it first (alpaca-jax jobs action=cancel dir=...), or wait"
                )
        actions.check(jobs, todo)
        jobs.sealed(entries)
        for one in entries:
            one.result = None if one in todo else one.result
        jobs.write()
        queue.start(jobs, [one.name for one in todo])
        return todo

    def _returned(self, row: Row, overrides: Sequence[str]) -> JobReturn:
        job_return = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        objective = (row.entry.result or {}).get("objective")
        if objective is None and self.searching:  # Hydra's own sweeper continues with its next batch
            job_return.status = JobStatus.FAILED
            objective = JobFailed(f"job {row.entry.name} has no objective: {row.trouble or row.status.state.value}")
        job_return.return_value = objective
        return job_return


def _mask(file: Path) -> None:
    """Takes secrets out of the file in which Hydra's sweeper has written down all settings."""
    if file.is_file():
        rundir.write_atomic(file, file.read_text("utf-8"))


def _renewed(folder: Path, verb: str, settings: LauncherConfig) -> Sweep:
    """The sweep in `folder` with the settings of this start; its earlier jobs are kept."""
    if not sweep.exists(folder):
        if record.exists(folder):
            raise UserError(f"{folder} is the folder of a single job; give the sweep another dir=")
        return Sweep(folder, settings.backend, verb, settings.objective, settings.parallel, keep_going=settings.keep_going)
    jobs = sweep.read(folder)
    for what, before, now in (("verb", jobs.verb, verb), ("backend", jobs.backend, settings.backend)):
        if before != now:
            raise UserError(f"{folder} holds a sweep of the {what} {before}, but this one is of {now}; give another dir=")
    jobs.objective, jobs.parallel, jobs.keep_going = settings.objective, settings.parallel, settings.keep_going
    return jobs
