"""What does a step of distillation cost with the teacher in memory? Our step against TRL's two trainers, in time and peak memory.

The sizes are those of SmolLM2-135M (vocabulary 49,152) with six layers for the teacher and four for the student (`--layers`), so that the
loss counts; random weights, fp32, forward KL, AdamW with clipping, layers recomputed in the backward pass on all sides. `gkd` is TRL's GKD
trainer, which holds both sides' logits; `chunked` its Distillation trainer. Each takes its steps in a process of its own, in turns. The
time is the CPU time of all threads, which a busy machine changes little; the peak is that of the process. Finally prints one JSON line per
peer. Run from the root, with an interpreter that has trl: python -m tools.benchmark.distill --trl PYTHON
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # when it is run by its path

from tools.benchmark import turns  # noqa: E402

PEERS = ("gkd", "chunked")
LAYERS = (4, 6)  # of student and teacher


def main() -> None:
    """Runs the contestants in turns and prints the JSON lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trl", help="the interpreter of an environment with trl")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a turn, after one that isn't")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--layers", type=int, nargs=2, default=LAYERS, help="of student and teacher")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)  # the child that takes our steps
    given = parser.parse_args()
    if given.ours:
        report(our_step(given.rows, given.length, *given.layers), given.steps)
        return
    if given.trl is None:
        parser.error("give --trl PYTHON, the interpreter of an environment with trl")
    shape = [f"--rows={given.rows}", f"--length={given.length}", f"--steps={given.steps}", "--layers", *map(str, given.layers)]
    theirs = [given.trl, "-W", "ignore", str(ROOT / "tools" / "benchmark" / "distill_theirs.py")]
    commands = {"ours": [sys.executable, "-m", "tools.benchmark.distill", "--ours", *shape]}
    commands |= {peer: [*theirs, peer, *shape] for peer in given.peers}
    step, peak, versions = in_turns(commands, given.turns)
    for peer in given.peers:
        memory = {"ours_gb": round(peak["ours"], 3), "peer_gb": round(peak[peer], 3), "memory_ratio": round(peak["ours"] / peak[peer], 3)}
        more = memory | {"rows": given.rows, "length": given.length, "layers": list(given.layers), "peers": versions}
        print(turns.result(f"distill_{peer}", step["ours"], step[peer], "s", ("jax", "flax", "optax"), **more))


def in_turns(commands: Mapping[str, Sequence[str]], count: int) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Of each contestant the median CPU seconds of a step and the largest peak in GB; and the versions that the peers name."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, list[float]] = {name: [] for name in commands}
    versions: dict[str, str] = {}
    for turn in range(count):
        for name, command in commands.items():
            found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
            seconds[name] += found["seconds"]
            peaks[name].append(found["peak"] / 1e9)
            versions |= found.get("versions", {})
            turns.console.print(f"turn {turn + 1}, {name}: {min(found['seconds']):.2f} CPU s a step, peak {peaks[name][-1]:.2f} GB")
    return {name: statistics.median(taken) for name, taken in seconds.items()}, {name: max(gb) for name, gb in peaks.items()}, versions


def report(take: Callable[[], float], steps: int) -> None:
    """Takes a step, then `steps` timed ones, and prints their CPU seconds and this process's peak memory in bytes."""
    take()
    taken = []
    for _ in range(steps):
        start = time.process_time()
        take()
        taken.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": taken, "peak": peak}))


def our_step(rows: int, length: int, own_layers: int, layers: int) -> Callable[[], float]:
    """A function that takes one of our steps and returns its loss."""
    import jax
    import numpy as np

    from alpaca_jax.model import llama
    from alpaca_jax.sharding import Layout
    from alpaca_jax.trainer.assemble import assemble
    from alpaca_jax.trainer.divergence import Rule
    from alpaca_jax.trainer.forward import Forward
    from alpaca_jax.trainer.objectives import distill
    from alpaca_jax.trainer.optimizer import OptimizerConfig
    from tools.benchmark import shapes

    teacher = shapes.SHAPES["smollm2"].with_layers(layers)
    layout = Layout.of_one_device()
    told = distill.live({"teacher": Forward(teacher, constrain=layout.constrain)}, (1.0,))
    assembly = assemble(
        Forward(teacher.with_layers(own_layers), remat="full", constrain=layout.constrain),
        OptimizerConfig(learning_rate=1e-4, schedule="constant"),
        layout,
        lambda forward: distill.objective(forward, told, Rule(), teacher.vocab_size),
        steps=100,
        others={distill.TEACHERS: {"teacher": llama.specs(teacher)}},
    )
    state, fixed = assembly.start(assembly.random_params(jax.random.key(0)))
    fixed |= {distill.TEACHERS: {"teacher": jax.jit(lambda key: llama.init(teacher, key))(jax.random.key(1))}}
    ids = np.random.default_rng(0).integers(0, teacher.vocab_size, (rows, length + 1)).astype(np.int32)
    ones = np.ones((rows, length), np.int32)
    batch = layout.place(
        {
            "tokens": ids[:, :-1],
            "targets": ids[:, 1:],
            "segments": ones,
            "positions": np.arange(length, dtype=np.int32) * ones,
            "weights": ones.astype(np.float32),
        },
        rows,
    )
    step = assembly.compile(rows, length)

    def take() -> float:
        nonlocal state
        state, metrics = step(state, fixed, batch)
        return float(metrics["loss"])

    return take


if __name__ == "__main__":
    main()
