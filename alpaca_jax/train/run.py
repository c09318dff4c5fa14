"""The verb: what is checked, prepared and written around the loop."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from alpaca_jax import checkpoint, lock, metrics, rundir, storage
from alpaca_jax.checkpoint import Checkpoints
from alpaca_jax.config import to_mapping
from alpaca_jax.data import remarks
from alpaca_jax.distributed import Membership, StopSignals, any_process, is_lead, joined
from alpaca_jax.errors import Restart, UserError
from alpaca_jax.footprint import limit
from alpaca_jax.footprint.estimate import size
from alpaca_jax.metrics import MetricsWriter, sinks
from alpaca_jax.terminal import Console
from alpaca_jax.train import outcome
from alpaca_jax.train.config import Config
from alpaca_jax.train.export import AdapterExports, Exports, ModelExports
from alpaca_jax.train.loop import Loop
from alpaca_jax.train.programs import Programs
from alpaca_jax.train.settle import chosen, differences, machine, settings
from alpaca_jax.train.setup import Setup, check_base, prepare, settled, write_model
from alpaca_jax.train.start import Start, check_fingerprints, latest
from alpaca_jax.trainer.objectives import Factory

FROZEN = (*rundir.FROZEN, "objective", "adapter", "epochs", "steps", "microbatches")
# Of these, where something lies: a run goes on with its records or its model at another place, as long as they hold the same.
PLACES = (
    *("data.records", "data.sources.*.records", "data.template", "data.sources.*.template", "data.cache"),
    *("model.cache", "model.source", "model.base", "model.tokenizer"),
)
SMALL_RATE = 5e-5  # below it an adapter hardly learns from records (Schulman et al. 2025, "LoRA Without Regret")
OLDER = {"objective.name": "sft"}  # what runs minimized before there were objectives
LOOK_SECONDS = 0.2  # between two polls of the exports, at the end


def run(config: Config, objective: Factory | None = None) -> dict[str, Any]:
    """Trains until the last step, from the newest whole checkpoint where there is one; returns what it wrote to train/summary.json.

    `objective` is what each step minimizes, instead of what `config.objective` names. SIGTERM and SIGUSR1 end the run after the current
    step with a checkpoint and `Restart`; SIGINT does the same with KeyboardInterrupt.
    """
    with joined(config.distributed, config.dir, to_mapping(config)) as membership, _alone(config):
        return _train(config, objective, membership)


def _alone(config: Config) -> AbstractContextManager[object]:
    """The lock on what this run writes; the lead takes it for all, which end with it where it can't."""
    return lock.held(config.dir, "train", "train") if is_lead() else nullcontext()


def _train(config: Config, objective: Factory | None, membership: Membership) -> dict[str, Any]:
    console = Console(stderr=True, quiet=not is_lead())
    folder = rundir.RunDir(config.dir)
    _check_name(folder.root)
    given, config = config, settled(chosen(config, folder))
    moved = _check_same(config, folder)
    setup = prepare(config, objective)
    check_base(setup, folder.path("train", "model"))
    _introduce(console, config, setup, differences(given, config))
    with ExitStack() as stack:
        stack.enter_context(limit.explained(limit.remedies(settings(config), machine(config))))
        programs, done = Programs(setup.assembly, setup.batches.slots), setup.steps in checkpoint.steps(folder.path("train", "checkpoints"))
        if not done:
            stack.enter_context(programs.ahead((setup.batches.rows, setup.batches.row_length(0))))
        checkpoints = stack.enter_context(closing(Checkpoints(folder.path("train", "checkpoints"), config.checkpoint)))
        start = _start(console, setup, checkpoints, folder.path("train"), moved)
        if is_lead():
            rundir.write_yaml(folder.path("train", "config.yaml"), to_mapping(config))
            write_model(setup, folder.path("train", "model"), start.kept)
        writer = stack.enter_context(closing(_writer(config, folder))) if is_lead() else None
        setup.task.ready(setup.assembly, start.state.trained, start.fixed, int(start.state.step))
        loop = Loop(config, setup, start, programs, checkpoints, writer, console)
        stop = stack.enter_context(StopSignals())
        exports = [stack.enter_context(each) for each in _exports(config, folder, checkpoints, console)]
        with membership.watched(stop):
            loop.run(stop)
        summary = _finish(config, setup, folder, loop, stop)
        if config.export is not None or config.adapter is not None:
            _await(exports, stop)
        if writer is not None:
            outcome.show(console, config, summary, metrics.read(writer.path), already=loop.first == loop.step)
    return summary


def _check_name(folder: Path) -> None:
    """Raises a UserError where the run's checkpoints could be written and not be read: Orbax takes its own folder for a glob pattern."""
    if not storage.is_remote(folder) and (found := sorted(set("*?[") & set(str(folder.absolute())))):
        raise UserError(f"dir={folder}: checkpoints can't be kept below a folder with {' '.join(found)} in its name; give another dir=")


def _check_same(config: Config, folder: rundir.RunDir) -> Mapping[str, str]:
    """Returns which of PLACES have changed since the run's first start.

    Raises a UserError where the folder holds a run of other settings; where that has weights, it says how to start from them.
    """
    try:
        return rundir.check_same(folder.path("train", "config.yaml"), to_mapping(config), FROZEN, PLACES, OLDER)
    except UserError as error:
        if not checkpoint.steps(folder.path("train", "checkpoints")):
            raise
        raise UserError(outcome.refusal(config, str(error))) from error


def _finish(config: Config, setup: Setup, folder: rundir.RunDir, loop: Loop, stop: StopSignals) -> dict[str, Any]:
    """Writes train/summary.json and returns it; raises Restart or KeyboardInterrupt where the run was asked to stop."""
    if stop.interrupted:
        raise KeyboardInterrupt
    if loop.stopped:
        rest = "" if loop.step < setup.steps else ", but not evaluated yet"
        raise Restart(f"stopped by {stop.why} at step {loop.step} of {setup.steps}; saved{rest}, start the same command again")
    summary = outcome.summary(config, setup, loop)
    if is_lead():
        rundir.write_json(folder.path("train", outcome.FILE), summary)
    return summary


def _await(exports: Sequence[Exports], stop: StopSignals) -> None:
    """Returns in every process once the lead has exported what it can."""
    for each in exports:
        each.last()
    while any_process(not all(each.done for each in exports)):
        if stop.now():
            if stop.interrupted:
                raise KeyboardInterrupt
            raise Restart("trained, and stopped while checkpoints were exported; start the same command again for the rest")
        time.sleep(LOOK_SECONDS)


def _start(console: Console, setup: Setup, checkpoints: Checkpoints, folder: Path, moved: Mapping[str, str]) -> Start:
    """Where the run starts; says so where that is a checkpoint."""
    with console.status("reading the weights"):
        start = latest(setup, checkpoints, lambda message: console.print(message, style="yellow"))
    check_fingerprints(setup, start, str(checkpoints.folder), moved)
    if start.progress.fingerprints:
        console.print(f"resuming from the checkpoint of step {int(start.state.step)}", highlight=False)
    return dataclasses.replace(start, progress=outcome.known(folder, start.progress, int(start.state.step)))


def _writer(config: Config, folder: rundir.RunDir) -> MetricsWriter:
    train = folder.path("train")
    name = Path(config.dir).resolve().name
    return MetricsWriter(train, sinks=sinks(config.logging, name, to_mapping(config), train))


def _exports(config: Config, folder: rundir.RunDir, checkpoints: Checkpoints, console: Console) -> list[Exports]:
    """What the lead writes of each checkpoint for other programs; on an object store nothing."""
    exports: list[Exports] = []
    if is_lead() and config.export is not None:
        exports.append(ModelExports(folder.path("train", "hf"), checkpoints, config.export, console))
    if is_lead() and config.adapter is not None and not storage.is_remote(folder.root):
        exports.append(AdapterExports(folder.path("train", "adapter"), checkpoints, console))
    return exports


def _introduce(console: Console, config: Config, setup: Setup, auto: str) -> None:
    a, batches = setup.architecture, setup.batches
    counts = ", ".join(f"{len(examples)} examples ({split})" for split, examples in setup.data.examples.items())
    taken = f"{config.batch.examples} examples" if config.batch.examples else f"{config.batch.tokens} tokens"
    console.print(
        f"{config.model.source or 'random weights'}: {a.num_parameters / 1e6:,.1f} M parameters, {a.num_layers} layers, "
        f"on {jax.device_count()} x {setup.chip.name}\n"
        f"{counts}; {setup.steps} steps of {taken} "
        f"in {batches.rows} rows of {config.batch.sequence_length}, {batches.left_out} examples left out of an epoch; "
        f"into {storage.at(config.dir) / 'train'}",
        highlight=False,
    )
    of = "" if setup.memory is None else f" of {size(setup.memory)}"
    chose = f"auto: {auto}; " if auto else ""
    console.print(f"{chose}{setup.footprint}{of}", highlight=False, soft_wrap=True, markup=False)
    if config.adapter is not None:
        _introduce_adapter(console, config, setup)
    console.print(f"rendered in {remarks.templates(setup.data)}", highlight=False, soft_wrap=True, markup=False)
    for remark in remarks.of(setup.data):
        console.print(remark.text, style="yellow" if remark.warning else None, highlight=False, soft_wrap=True, markup=False)
    for note in setup.source.notes if setup.source else ():
        console.print(f"{config.model.source}: {note}", highlight=False, soft_wrap=True)
    if setup.data.mixture is not None:
        table = Table("source", "examples", "tokens", "epochs", "share", title="Mixture", title_justify="left")
        for row in setup.data.mixture.table():
            table.add_row(str(row["source"]), f"{row['examples']:,}", f"{row['tokens']:,}", f"{row['epochs']:.2f}", f"{row['share']:.1%}")
        console.print(table)


def _introduce_adapter(console: Console, config: Config, setup: Setup) -> None:
    assert setup.adapter_weights is not None
    console.print(f"an adapter of {setup.adapter_weights / 1e6:,.2f} M weights is trained, and none of the model's own", highlight=False)
    if config.objective.name == "sft" and config.optimizer.learning_rate < SMALL_RATE:
        rate = config.optimizer.learning_rate
        console.print(
            f"optimizer.learning_rate={rate:g} is for full fine-tuning, and an adapter learns little at it: give about ten times as much",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
