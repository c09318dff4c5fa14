"""The verb: what is checked, prepared and written down around the loop."""

import dataclasses
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from alpaca_jax import rundir, storage
from alpaca_jax.checkpoint import Checkpoints
from alpaca_jax.config import to_mapping
from alpaca_jax.distributed import Membership, StopSignals, any_process, is_lead, joined
from alpaca_jax.errors import Restart, UserError
from alpaca_jax.formats import native
from alpaca_jax.metrics import MetricsWriter, memory, sinks
from alpaca_jax.train.config import Config
from alpaca_jax.train.export import Exports
from alpaca_jax.train.loop import Loop, latest
from alpaca_jax.train.setup import Setup, prepare
from alpaca_jax.trainer.state import State

FROZEN = (*rundir.FROZEN, "epochs", "steps", "microbatches")
LOOK_SECONDS = 0.2  # between two looks at the exports, in the end


def run(config: Config) -> dict[str, Any]:
    """Trains until the last step, from the newest whole checkpoint where there is one; returns what it wrote to train/summary.json.

    SIGTERM and SIGUSR1 end the run after the step at hand with a checkpoint and `Restart`; SIGINT the same with KeyboardInterrupt.
    """
    with joined(config.distributed, config.dir, to_mapping(config)) as membership:
        return _train(config, membership)


def _train(config: Config, membership: Membership) -> dict[str, Any]:
    console = Console(stderr=True, quiet=not is_lead())
    folder = rundir.RunDir(config.dir)
    rundir.check_same(folder.path("train", "config.yaml"), to_mapping(config), FROZEN)
    setup = prepare(config)
    if is_lead():
        rundir.write_yaml(folder.path("train", "config.yaml"), to_mapping(config))
        native.write(folder.path("train", "model"), setup.architecture, setup.tokenizer, setup.eos_ids, config.model.source)
    _introduce(console, config, setup)

    checkpoints = Checkpoints(folder.path("train", "checkpoints"), config.checkpoint)
    try:
        state, meta = _resume(console, setup, checkpoints)
        writer = _writer(config, folder) if is_lead() else None
        try:
            loop = Loop(config, setup, state, meta, checkpoints, writer, console)
            with StopSignals() as stop, _exports(config, folder, checkpoints, console) as exports:
                with membership.watched(stop):
                    loop.run(stop)
                summary = _finish(config, setup, folder, loop, stop)
                if config.checkpoint.export is not None:
                    _await(exports, stop)
        finally:
            if writer is not None:
                writer.close()
    finally:
        checkpoints.close()
    return summary


def _finish(config: Config, setup: Setup, folder: rundir.RunDir, loop: Loop, stop: StopSignals) -> dict[str, Any]:
    """Writes train/summary.json and returns it; where the run was told to stop, raises what says so."""
    if stop.interrupted:
        raise KeyboardInterrupt
    if loop.stopped:
        raise Restart(f"stopped by {stop.why} at step {loop.step} of {setup.steps}; saved, start the same command again")
    summary = _summary(config, setup, loop)
    if is_lead():
        rundir.write_json(folder.path("train", "summary.json"), summary)
    return summary


def _await(exports: Exports | None, stop: StopSignals) -> None:
    """Returns in every process once the first one has exported what it will."""
    if exports is not None:
        exports.last()
    while any_process(exports is not None and not exports.done):
        if stop.now():
            if stop.interrupted:
                raise KeyboardInterrupt
            raise Restart("trained, and stopped while checkpoints were exported; start the same command again for the rest")
        time.sleep(LOOK_SECONDS)


def _resume(console: Console, setup: Setup, checkpoints: Checkpoints) -> tuple[State, dict[str, Any]]:
    """The state to go on from and what was counted up to it."""
    state, meta = latest(setup, checkpoints, console)
    for what, found in meta.get("fingerprints", {}).items():
        if setup.fingerprints[what] != found:
            raise UserError(
                f"{checkpoints.folder / str(int(state.step))} was trained on other {what} (fingerprint {found[:12]}, now "
                f"{setup.fingerprints[what][:12]}), though the settings are the same: give another dir=, or bring the {what} of before back"
            )
    if meta:
        console.print(f"going on from the checkpoint of step {int(state.step)}", highlight=False)
    return state, meta


def _writer(config: Config, folder: rundir.RunDir) -> MetricsWriter:
    train = folder.path("train")
    name = Path(config.dir).resolve().name
    return MetricsWriter(train, sinks=sinks(config.logging, name, to_mapping(config), train))


def _exports(config: Config, folder: rundir.RunDir, checkpoints: Checkpoints, console: Console) -> AbstractContextManager[Exports | None]:
    if config.checkpoint.export is None or not is_lead():
        return nullcontext()
    return Exports(folder.path("train", "hf"), checkpoints, config.checkpoint.export, console)


def _introduce(console: Console, config: Config, setup: Setup) -> None:
    a, batches = setup.architecture, setup.batches
    counts = ", ".join(f"{len(examples)} examples ({split})" for split, examples in setup.data.examples.items())
    size = f"{config.batch.examples} examples" if config.batch.examples else f"{config.batch.tokens} tokens"
    console.print(
        f"{config.model.source or 'random weights'}: {a.num_parameters / 1e6:,.1f} M parameters, {a.num_layers} layers, "
        f"on {jax.device_count()} x {setup.chip.name}\n"
        f"{counts}; {setup.steps} steps of {size} "
        f"in {batches.rows} rows of {config.batch.sequence_length}, {batches.left_out} examples left out of an epoch; "
        f"into {storage.at(config.dir) / 'train'}",
        highlight=False,
    )
    for note in setup.notes:
        console.print(f"{config.model.source}: {note}", highlight=False, soft_wrap=True)
    if setup.data.mixture is not None:
        table = Table("source", "examples", "tokens", "epochs", "share", title="Mixture", title_justify="left")
        for row in setup.data.mixture.table():
            table.add_row(str(row["source"]), f"{row['examples']:,}", f"{row['tokens']:,}", f"{row['epochs']:.2f}", f"{row['share']:.1%}")
        console.print(table)


def _summary(config: Config, setup: Setup, loop: Loop) -> dict[str, Any]:
    totals = loop.totals()
    hours = totals["seconds"] / 3600
    rate = config.hardware.dollars_per_hour
    return {name: value for name, value in totals.items() if name != "heldout"} | {
        "steps": loop.step,
        "epochs": loop.step / setup.batches.steps_per_epoch,
        "examples": len(setup.data.examples["train"]),
        "left_out_each_epoch": setup.batches.left_out,
        "counts": {split: dataclasses.asdict(counts) for split, counts in setup.data.counts.items()},
        "skipped_records": setup.data.skipped,
        "shortened_records": setup.data.shortened,
        "mixture": None if setup.data.mixture is None else setup.data.mixture.table(),
        "data_fingerprint": setup.data.fingerprint,
        "final_loss": loop.last_loss,
        **loop.heldout,
        "rollbacks": loop.rollbacks,
        "goodput": loop.goodput.share(),
        "memory": memory(),
        "dollars": None if rate is None else round(hours * rate, 4),
        "parameters": setup.architecture.num_parameters,
        "hardware": {
            "chip": setup.chip.name,
            "devices": jax.device_count(),
            "peak_flops": setup.chip.peak_flops,
            "peak_source": setup.chip.source,
        },
    }
