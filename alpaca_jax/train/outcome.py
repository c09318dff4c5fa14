"""What a run came to: train/summary.json, and what is printed when the last step is done."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from alpaca_jax import grammar, rundir, storage
from alpaca_jax.config import parse, to_mapping
from alpaca_jax.metrics import memory
from alpaca_jax.terminal import Console
from alpaca_jax.train.config import Config
from alpaca_jax.train.loop import Loop
from alpaca_jax.train.progress import Progress
from alpaca_jax.train.setup import Setup
from alpaca_jax.train.stopping import Best

FILE = "summary.json"
SHOWN = 8  # held-out losses that are printed; of more, the first and the last ones


def summary(config: Config, setup: Setup, loop: Loop) -> dict[str, Any]:
    """Returns the figures of a run that has taken its last step; each that belongs to one step stands beside its number."""
    counted = loop.counted()
    hours = counted["seconds"] / 3600
    rate = config.hardware.dollars_per_hour
    return counted | {
        "loss": loop.last_loss,
        "loss_step": loop.loss_step,
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
        **({"heldout_step": loop.evaluated} if loop.heldout else {}),
        "evaluated": loop.evaluated,
        **_best(loop),
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


def _best(loop: Loop) -> dict[str, Any]:
    """The best evaluation, in a run that looks for it, and what a later start needs to know of it."""
    best, early = loop.stopping.best, loop.step < loop.setup.steps
    if best is None:
        return {}
    return {"best_step": best.step, "best_value": best.value, "best_metric": best.metric, "stopped_early": early, "best": to_mapping(best)}


def known(folder: Path, progress: Progress, step: int) -> Progress:
    """`progress` of the checkpoint of `step` with the evaluation that came after it, where a summary in `folder` has one of that step."""
    path = folder / FILE
    if not path.is_file():
        return progress
    found = rundir.read_json(path)
    if not isinstance(found, dict) or found.get("steps") != step or found.get("evaluated") != step:
        return progress
    measured = ("heldout_loss", "suites/", "compare/")
    heldout = {name: value for name, value in found.items() if name.startswith(measured) and isinstance(value, float)}
    best = parse(Best, found["best"], f"{path}: best") if isinstance(found.get("best"), dict) else None
    return dataclasses.replace(progress, heldout=heldout, evaluated=step, best=best)


def show(console: Console, config: Config, figures: dict[str, Any], lines: list[dict[str, Any]], already: bool) -> None:
    """Prints a finished run's losses, where it lies and the commands that go on from it; `already`: an earlier start took the last step."""
    if already:
        what = f"this run had taken all its {figures['steps']} steps before, so there was nothing left to train"
    else:
        what = f"trained {figures['steps']} steps" + (", and stopped early" if figures.get("stopped_early") else "")
    loss = "" if figures["loss"] is None else f"; loss {figures['loss']:.4f}{_at(figures['loss_step'])}"
    said = [
        what + loss,
        *heldout(lines),
        *best(config, figures),
        f"it lies in {storage.at(config.dir)}; what to do next:",
        *(f"  {line}" for line in next_commands(config)),
    ]
    console.print("\n".join(said), highlight=False, soft_wrap=True, markup=False)


def next_commands(config: Config) -> list[str]:
    """The commands that score, convert and serve what was trained, quoted for a shell."""
    run, trained = {"dir": config.dir}, f"{config.dir}/train"
    target = {"source": trained, "target": "FOLDER"} if storage.is_remote(config.dir) else run
    return [grammar.command("evaluate", run), grammar.command("convert", target), grammar.command("serve", {"model.source": trained})]


def refusal(config: Config, problem: str) -> str:
    """The refusal of changed settings, with how to train on from the weights of the run that is there."""
    command = grammar.command("train", {"model.source": f"{config.dir}/train", "dir": "NEW"})
    return f"{problem}\nor start from its weights with the new settings, in another folder: {command} ..."


def heldout(lines: list[dict[str, Any]]) -> list[str]:
    """The held-out losses of a run's metrics in a line, as they came; no line where there are none."""
    losses = {line["step"]: line["heldout_loss"] for line in lines if line.get("heldout_loss") is not None}
    shown = [f"{loss:.4f}{_at(step)}" for step, loss in losses.items()]
    if len(shown) > SHOWN:
        shown = [shown[0], "...", *shown[1 - SHOWN :]]
    return [f"held-out loss (nats a response token): {', '.join(shown)}"] if shown else []


def best(config: Config, figures: dict[str, Any]) -> list[str]:
    """The best checkpoint of a run that looks for it, in a line, with how to take it; no line where there is none."""
    if figures.get("best_step") is None:
        return []
    at = f"{config.dir}/train/checkpoints/{figures['best_step']}"
    return [f"the best {figures['best_metric']} was {figures['best_value']:.4f} at step {figures['best_step']}; take it with source={at}"]


def _at(step: int | None) -> str:
    return "" if step is None else f" (step {step})"
