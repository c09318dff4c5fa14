"""The training loop."""

import dataclasses
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from alpaca_jax import rundir
from alpaca_jax.checkpoint import Checkpoints
from alpaca_jax.config import to_mapping
from alpaca_jax.distributed import StopSignals
from alpaca_jax.errors import Restart, UserError
from alpaca_jax.formats import native
from alpaca_jax.metrics import MetricsWriter, Throughput
from alpaca_jax.model import flops
from alpaca_jax.scores.heldout import Scorer
from alpaca_jax.train.config import Config
from alpaca_jax.train.display import Display
from alpaca_jax.train.setup import Setup, prepare
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.state import State

FROZEN = (*rundir.FROZEN, "epochs", "steps", "microbatches")


def run(config: Config) -> dict[str, Any]:
    """Trains until the last step, from the newest whole checkpoint where there is one; returns what it wrote to train/summary.json.

    SIGTERM and SIGUSR1 end the run after the step at hand with a checkpoint and `Restart`; SIGINT the same with KeyboardInterrupt.
    """
    console = Console(stderr=True)
    folder = rundir.RunDir(config.dir)
    rundir.check_same(folder.path("train", "config.yaml"), to_mapping(config), FROZEN)
    setup = prepare(config)
    rundir.write_yaml(folder.path("train", "config.yaml"), to_mapping(config))
    native.write(folder.path("train", "model"), setup.architecture, setup.tokenizer, setup.eos_ids, config.model.source)
    _introduce(console, config, setup)

    checkpoints = Checkpoints(folder.path("train", "checkpoints"), config.checkpoint)
    try:
        state, meta = _resume(console, setup, checkpoints)
        with MetricsWriter(folder.path("train")) as writer:
            writer.rewind(int(state.step))
            summary = _train(console, config, setup, state, meta, checkpoints, writer)
    finally:
        checkpoints.close()
    rundir.write_json(folder.path("train", "summary.json"), summary)
    return summary


def _resume(console: Console, setup: Setup, checkpoints: Checkpoints) -> tuple[State, dict[str, Any]]:
    """The state to go on from and the sums that go with it."""
    newest = checkpoints.newest(lambda message: console.print(f"[yellow]{message}[/yellow]"))
    if newest is None:
        params = setup.first_params()
        return states.start(params, setup.optimizer, setup.places), {"tokens_real": 0, "seconds": 0.0, "compile_seconds": 0.0}
    with console.status(f"restoring step {newest}"):
        items, meta = checkpoints.restore(newest, _items(setup.abstract))
    console.print(f"going on from the checkpoint of step {newest}", highlight=False)
    rest = items["optimizer"]
    return State(rest["step"], rest["batch_index"], items["params"], rest["opt_state"]), meta


def _items(state: State) -> dict[str, Any]:
    """The state as a checkpoint names it: params apart, so that they can be read without the optimizer."""
    return {"params": state.params, "optimizer": {"step": state.step, "batch_index": state.batch_index, "opt_state": state.opt_state}}


def _train(
    console: Console, config: Config, setup: Setup, state: State, sums: dict[str, Any], checkpoints: Checkpoints, writer: MetricsWriter
) -> dict[str, Any]:
    step, begun, last_loss = int(state.step), sums["seconds"], sums.get("loss")
    if step < setup.steps:
        compiled = _compile(console, config, setup, state, sums)
    peak = setup.chip.peak_flops
    throughput = Throughput(None if peak is None else peak * jax.device_count(), tokens=sums["tokens_real"])
    heldout = _heldout(config, setup)
    start = time.perf_counter()

    def totals() -> dict[str, Any]:
        seconds = begun + time.perf_counter() - start
        return {"tokens_real": throughput.tokens, "seconds": seconds, "compile_seconds": sums["compile_seconds"], "loss": last_loss}

    def save() -> None:
        checkpoints.save(step, _items(state), totals())

    with StopSignals() as stop, Display(console, setup.steps, step) as display:
        for batch in (
            setup.batches.stream(int(state.batch_index), int(state.batch_index) + setup.steps - step) if step < setup.steps else ()
        ):
            state, metrics = compiled(state, jax.device_put(batch, setup.layout.batch))
            step += 1
            lengths = flops.segment_lengths(batch["segments"])
            throughput.add(int(lengths.sum()), batch["tokens"].size, flops.train_flops(setup.architecture, lengths))
            if step % config.log_every == 0 or step == setup.steps:
                last_loss = _finite(float(metrics["loss"]), step, config)
                line = _line(metrics, setup, step, throughput) | totals()
                writer.write(step, line)
                display.show(step, line)
            if heldout is not None and (step % config.evaluate_every == 0 or step == setup.steps):
                writer.write(step, {"heldout_loss": heldout.loss(state.params)})
                throughput.restart()
            if stop.received:
                break
            if checkpoints.due(step):
                save()
        save()
    checkpoints.wait()
    if stop.received == signal.SIGINT:
        raise KeyboardInterrupt
    if stop.received:
        raise Restart(f"stopped by signal {stop.received} at step {step} of {setup.steps}; saved, start the same command again")
    return totals() | {
        "steps": step,
        "epochs": step / setup.batches.steps_per_epoch,
        "examples": len(setup.data.examples["train"]),
        "left_out_each_epoch": setup.batches.left_out,
        "counts": {split: dataclasses.asdict(counts) for split, counts in setup.data.counts.items()},
        "skipped_records": setup.data.skipped,
        "data_fingerprint": setup.data.fingerprint,
        "final_loss": last_loss,
        "parameters": setup.architecture.num_parameters,
        "hardware": {"chip": setup.chip.name, "devices": jax.device_count(), "peak_flops": peak, "peak_source": setup.chip.source},
    }


def _heldout(config: Config, setup: Setup) -> Scorer | None:
    if config.evaluate_every is None:
        return None
    if "heldout" not in setup.data.examples:
        raise UserError(f"evaluate_every={config.evaluate_every} needs held-out records: give data.heldout, or evaluate_every=null")
    examples, length = setup.data.examples["heldout"], config.batch.sequence_length
    return Scorer(setup.architecture, examples, setup.batches.rows, length, config.model.compute_dtype)


def _compile(console: Console, config: Config, setup: Setup, state: State, sums: dict[str, Any]) -> Any:
    began = time.perf_counter()
    example = jax.device_put(setup.batches.batch(int(state.batch_index)), setup.layout.batch)
    with console.status("compiling the training step"):
        compiled = setup.step.lower(state, example).compile()
    sums["compile_seconds"] += time.perf_counter() - began
    console.print(f"compiled in {time.perf_counter() - began:.1f} s", highlight=False)
    return compiled


def _line(metrics: dict[str, Any], setup: Setup, step: int, throughput: Throughput) -> dict[str, Any]:
    figures = {"loss": float(metrics["loss"]), "learning_rate": float(setup.schedule(step - 1)), "targets": int(metrics["targets"])}
    return figures | {"gradient_norm": float(metrics["gradient_norm"])} | throughput.take()


def _finite(loss: float, step: int, config: Config) -> float:
    if np.isfinite(loss):
        return loss
    raise UserError(
        f"the loss of step {step} is {loss}; nothing of it was saved. Lower optimizer.learning_rate ({config.optimizer.learning_rate:g}), "
        "or look at the records of this batch; the same command goes on from the checkpoint before"
    )


def _introduce(console: Console, config: Config, setup: Setup) -> None:
    a, batches = setup.architecture, setup.batches
    counts = ", ".join(f"{len(examples)} examples ({split})" for split, examples in setup.data.examples.items())
    console.print(
        f"{config.model.source or 'random weights'}: {a.num_parameters / 1e6:,.1f} M parameters, {a.num_layers} layers, "
        f"on {jax.device_count()} x {setup.chip.name}\n"
        f"{counts}; {setup.steps} steps of {config.batch.examples} examples "
        f"in {batches.rows} rows of {config.batch.sequence_length}; into {Path(config.dir) / 'train'}",
        highlight=False,
    )
