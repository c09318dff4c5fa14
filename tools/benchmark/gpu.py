"""How fast is the training step on this GPU? Ours against transformers + torch on the same card, on Alpaca at 128 examples a step.

Needs jax, flax, optax, numpy, rich and pyyaml (the peer: torch and transformers; --output: matplotlib), and no installed alpaca_jax: run
it from the root of the checkout. If the records or sentencepiece are missing there, bring the tokens along:
    python -m tools.benchmark.gpu --save-tokens tokens.npz          (on a machine that has them)
    python -m tools.benchmark.gpu --tokens tokens.npz               (on the GPU)

--mode step: SmolLM2-135M, 1B (Llama-3.2's shape) and 7B, each in its own processes: rows of 2048, bf16 compute, weights and moments in
fp32 or, if memory is too small for that, in bf16. The peer pads to the longest of 4 and runs under bf16 autocast.
--mode full: SmolLM2 on all records for 3 epochs (1,218 steps), ours and torch's from the same weights on the same examples in the same
steps: both curves (--output) and wall times.
Figures: real tokens per second; MFU of real tokens with attention inside segments and, as others count it, with attention over whole
rows; both over the card's dense bf16 peak, without recomputation. It also runs without a GPU (--shape tiny --steps 2), and says so.
Prints one JSON line per shape. Run from the root: python -m tools.benchmark.gpu
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import numpy as np

from tools.benchmark import alpaca, shapes, turns
from tools.benchmark.gpu_job import PLANS, Job

PACKAGES = ("jax", "flax", "optax", "torch", "transformers")
NO_MEMORY = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "Out of memory", "out of memory")


def main() -> None:
    """Measures the shapes, or the full run; each side in its own processes, so that one card can serve both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["step", "full"], default="step")
    parser.add_argument("--shape", nargs="+", choices=shapes.SHAPES, help="step: smollm2 1b 7b; full: smollm2")
    parser.add_argument("--steps", type=int, help="steps to time (10), or of the full run (all)")
    parser.add_argument("--records", type=int, help="only so many")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--source", help="initial weights and tokenizer, like model.source; default: random weights and LLaMA's tokens")
    parser.add_argument("--tokens", help="the examples written by --save-tokens")
    parser.add_argument("--save-tokens", type=Path, help="write the examples for a machine without the records, and exit")
    parser.add_argument("--output", type=Path, help="full: the folder for the plot of the curves")
    arguments = parser.parse_args()
    chosen = {key: getattr(arguments, key) for key in ("mode", "steps", "records", "learning_rate", "source", "tokens")}
    for shape in arguments.shape or (["smollm2", "1b", "7b"] if arguments.mode == "step" else ["smollm2"]):
        jobs = [Job(shape=shape, **dataclasses.asdict(plan), **chosen) for plan in PLANS[shape]]
        if arguments.save_tokens:
            alpaca.save(arguments.save_tokens, jobs[0].examples())
            turns.console.print(f"wrote {arguments.save_tokens}")
            return
        results = {side: first_that_fits(side, jobs) for side in sides()}
        if results["ours"] is None:
            turns.console.print(f"{shape}: no plan of ours fits this device")
        elif arguments.mode == "step":
            report_step(shape, results["ours"], results.get("theirs"))
        else:
            report_full(shape, results["ours"], results.get("theirs"), arguments.output)


def sides() -> list[str]:
    """The sides that can be measured here."""
    lacking = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if lacking:
        turns.console.print(f"no peer: {' and '.join(lacking)} not installed")
    return ["ours"] if lacking else ["ours", "theirs"]


def first_that_fits(side: str, jobs: list[Job]) -> dict[str, Any] | None:
    """A side's measurements under the first plan that fits into memory; None if none fits."""
    tried = []
    for job in jobs:
        plan = f"{job.stored}, {job.remat}, {job.microbatches}" if side == "ours" else job.stored
        if plan in tried:  # the peer recomputes nothing and has its own microbatches
            continue
        tried.append(plan)
        turns.console.print(f"{job.shape}, {side}: {plan}")
        measured = measure(side, job)
        if measured is not None:
            return measured | {"plan": plan}
        turns.console.print("  does not fit")
    return None


def measure(side: str, job: Job) -> dict[str, Any] | None:
    """The measurements of a fresh process; None if memory was too small."""
    command = [sys.executable, "-W", "ignore", "-m", f"tools.benchmark.gpu_{side}", json.dumps(dataclasses.asdict(job))]
    environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if side == "theirs" else {})  # leaves the card to torch
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if any(sign in done.stderr for sign in NO_MEMORY):
        return None
    raise SystemExit(f"tools.benchmark.gpu_{side} ended with {done.returncode}:\n{done.stderr[-4000:]}")


def report_step(shape: str, ours: dict[str, Any], theirs: dict[str, Any] | None) -> None:
    """Prints the table and the JSON line of one shape's step."""
    rows = []
    for name, result in (("ours", ours), ("transformers + torch", theirs)):
        if result:
            shares = [f"{result[key]:.1%}" for key in ("mfu", "mfu_full_attention", "fill")]
            rows.append(
                [name, f"{result['tokens_per_second']:,.0f}", f"{result['seconds']:.3f}", *shares, result["memory"], result["plan"]]
            )
    columns = ["", "real tokens/s", "s a step", "MFU", "MFU, full attention", "slots filled", "peak GiB", "stored, remat, parts"]
    turns.table(f"{shape} on {ours['device']}", columns, rows)
    keys = ("mfu", "mfu_full_attention", "fill", "memory", "plan", "seconds")
    more = {"mode": "step", "shape": shape, "peak_source": ours["peak_source"], **{key: ours[key] for key in keys}}
    more |= {f"peer_{key}": theirs and theirs[key] for key in keys}
    print(line(ours, theirs, "tokens_per_second", "real tokens/s", more))


def report_full(shape: str, ours: dict[str, Any], theirs: dict[str, Any] | None, output: Path | None) -> None:
    """Prints both wall times and the distance of the curves, and draws them."""
    results = {"ours": ours} | ({"torch": theirs} if theirs else {})
    steps = len(ours["losses"])
    rows = [[name, f"{each['seconds']:.1f}", f"{each['losses'][0]:.4f}", f"{each['losses'][-1]:.4f}"] for name, each in results.items()]
    turns.table(f"{shape}, {steps} steps on {ours['device']}", ["", "seconds", "first loss", "last loss"], rows)
    more = {"mode": "full", "shape": shape, "steps": steps, "compile_seconds": round(ours["compile_seconds"], 1)}
    if theirs:
        apart = np.abs(np.array(ours["losses"]) / np.array(theirs["losses"]) - 1)
        more |= {"apart_mean": float(f"{apart.mean():.2g}"), "apart_most": float(f"{apart.max():.2g}")}
        turns.console.print(f"the losses are {apart.mean():.1e} apart on average, {apart.max():.1e} at most (bf16 compute on both sides)")
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / f"gpu-full-{shape}.json").write_text(json.dumps({name: each["losses"] for name, each in results.items()}))
        draw(output / f"gpu-full-{shape}.png", {name: each["losses"] for name, each in results.items()})
    print(line(ours, theirs, "seconds", "s", more))


def draw(path: Path, losses: dict[str, list[float]]) -> None:
    """Writes the PNG of the curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4), layout="constrained")
    for (name, values), style in zip(losses.items(), ("-", "--"), strict=False):
        axes.plot(range(1, len(values) + 1), values, style, label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="loss, nats a target token")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)


def line(ours: dict[str, Any], theirs: dict[str, Any] | None, key: str, unit: str, more: dict[str, Any]) -> str:
    """The JSON line; it says so if the figure is not a GPU's."""
    on_cpu = ours["platform"] == "cpu"
    if on_cpu:
        more["note"] = "NOT a GPU's figure: this ran on a CPU, to show that the script runs"
        turns.console.print(more["note"])
    if theirs is None:
        more["peer_note"] = "no peer: torch or transformers isn't installed here, or it doesn't fit"
    device = "cpu" if on_cpu else ours["device"]
    return turns.result("gpu", ours[key], theirs and theirs[key], unit, PACKAGES, device, **more)


if __name__ == "__main__":
    main()
