"""Does a change leave all numbers of training unchanged? The same runs on two commits, compared bit for bit.

Each case trains a tiny model for 20 steps, on one device and on a mesh of 2 x 2, once with the code of an earlier commit and once with
the current code. Losses, all leaves of the last checkpoint, and the exported Hugging Face weights must be equal to the last bit. Each
case is also started on the earlier commit, stopped halfway and finished by the current code: the new code resumes the old checkpoints.
Exits 1 if anything differs. Run from the root: python -m tools.prove.same_numbers REVISION
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
MESHES = {"1 device": {"data": 1}, "2 x 2": {"data": 2, "fsdp": 2}}
PADDED = {"packing": "none", "buckets": [64, 128, 256]}
CASES: dict[str, dict[str, Any]] = {
    "packed": {},
    "padded": {"batch": PADDED},
    "tokens": {"batch": {"examples": None, "tokens": 1024}},
    "microbatches": {"microbatches": 2, "batch": {"rows": 8}},
    "ema": {"optimizer": {"ema": 0.9, "weight_decay": 0.1}},
    "frozen": {"optimizer": {"frozen": ["embed.*", "layers.attention.*"]}},
    "frozen base": {"model": {"source": "BASE"}, "optimizer": {"frozen": ["embed.*", "layers.attention.*"], "ema": 0.9}},
    "frozen ema": {"optimizer": {"frozen": ["layers.mlp.*"], "ema": 0.9}},
    "guard": {"guard": {"policy": "skip", "spike": 1.05, "window": 2}, "optimizer": {"learning_rate": 0.05}},
    "rollback": {"guard": {"policy": "rollback", "spike": 1.3, "window": 2}, "optimizer": {"learning_rate": 0.02}},
    "bf16": {"model": {"dtype": "bfloat16", "compute_dtype": "bfloat16", "remat": "full"}, "optimizer": {"moments": "bfloat16"}},
    "adafactor": {"optimizer": {"name": "adafactor", "momentum": 0.9}},
    "lion": {"optimizer": {"name": "lion", "learning_rate": 1e-3}},
    "muon": {"optimizer": {"name": "muon", "momentum": 0.95}},
}


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The results of a run: its losses in the order of the steps, and the bytes of each array by name."""

    losses: list[tuple[int, float]]
    arrays: dict[str, bytes]


def main() -> None:
    """Runs both commits, prints the differences and exits 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--meshes", nargs="*", choices=list(MESHES), default=list(MESHES))
    arguments = parser.parse_args()
    differences = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = folder / "before"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", before, arguments.revision], check=True)
        try:
            write_files(folder)
            train(before, folder, "1 device", "source", STEPS, ["packed"])  # provides the weights for BASE
            for mesh in arguments.meshes:
                train(before, folder, mesh, "before", STEPS, arguments.only)
                train(ROOT, folder, mesh, "after", STEPS, arguments.only)
                train(before, folder, mesh, "across", STEPS // 2, arguments.only)
                train(ROOT, folder, mesh, "across", STEPS, arguments.only)
                for case in arguments.only:
                    different = list(compare(folder, mesh, case))
                    print(f"{mesh}, {case}: {'; '.join(different) or 'equal'}", flush=True)
                    differences += different
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", before], check=True)
    print(f"{len(differences)} differences between {arguments.revision} and the code at hand, over {STEPS} steps of each case")
    sys.exit(1 if differences else 0)


def write_files(folder: Path) -> None:
    """Writes the tokenizer and the records of all runs."""
    from tools.prove import tiny

    tiny.write_tokenizer(folder / "tokenizer")
    (folder / "records.jsonl").write_text("".join(json.dumps(tiny.record(number)) + "\n" for number in range(64)))


def train(tree: Path, folder: Path, mesh: str, name: str, steps: int, cases: list[str]) -> None:
    """Runs every case up to `steps` with the package of `tree`, in one process."""
    from tools.prove import tiny

    devices = math.prod(MESHES[mesh].values())
    work = []
    for case in cases:
        settings = {
            "dir": str(folder / mesh / name / case),
            "steps": STEPS,
            "model": {"architecture": tiny.SIZES, "tokenizer": str(folder / "tokenizer")},
            "data": {"records": str(folder / "records.jsonl"), "cache": str(folder / "cache"), "max_length": 256},
            "batch": {"examples": 8, "sequence_length": 256},
            "optimizer": {"learning_rate": 1e-2},
            "mesh": MESHES[mesh],
            "hardware": {"peak_tflops": 0.1},
            "checkpoint": {"every_steps": 5, "keep": 9},
        }
        for group, change in CASES[case].items():
            settings[group] = settings.get(group, {}) | change if isinstance(change, dict) else change
        if settings["model"].get("source") == "BASE":
            settings["model"] = {"source": str(folder / "1 device" / "source" / "packed" / "hf")}
        work.append(settings)
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "JAX_PLATFORMS": "cpu",
        # What is the same program on both sides is compiled once.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(steps), json.dumps(work)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tree}, {mesh}: the runs ended with {done.returncode}:\n{done.stderr[-4000:]}")


# In the tree's own interpreter: the only parts of the package it touches are the verbs and their configs.
RUN = """
import json, os, sys, threading, time
from alpaca_jax.config import parse
from alpaca_jax.convert import config as convert_config, run as convert
from alpaca_jax.errors import Restart
from alpaca_jax.train import config as train_config, loop, run as train
import alpaca_jax
last, work = int(sys.argv[1]), json.loads(sys.argv[2])
assert alpaca_jax.__file__.startswith(os.environ["PYTHONPATH"]), alpaca_jax.__file__
class Stop:
    # Takes the place of the signals: asks for a stop after the step `last`.
    why, interrupted = "test", False
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def now(self): return self.loop is not None and self.loop.step >= last and last < self.loop.setup.steps
    loop = None
class Loop(train.Loop):
    def __init__(self, *a, **k):
        super().__init__(*a, **k)
        Stop.loop = self
train.Loop, train.StopSignals = Loop, Stop
for settings in work:
    try:
        train.run(parse(train_config.Config, settings))
    except Restart:
        continue
    folder = settings["dir"]
    convert.run(parse(convert_config.Config, {"dir": folder, "source": folder + "/train", "target": folder + "/hf", "dtype": "float32"}))
"""


def compare(folder: Path, mesh: str, case: str) -> Iterator[str]:
    """The differences between the run before, the run after and the run resumed across the change."""
    before, after, across = (read(folder / mesh / name / case) for name in ("before", "after", "across"))
    for name, other in (("after", after), ("across", across)):
        if before.losses != other.losses:
            first = next((pair for pair in zip(before.losses, other.losses, strict=False) if pair[0] != pair[1]), "their number")
            yield f"{name}: losses differ: {first}"
        for array, content in other.arrays.items():
            if array not in before.arrays:
                yield f"{name}: {array} is new"
            elif content != before.arrays[array]:
                yield f"{name}: {array} differs"
        # Weights that a step doesn't change need not be in a checkpoint; the exported weights contain them all.
        frozen = CASES[case].get("optimizer", {}).get("frozen")
        if missing := [] if frozen else sorted(before.arrays.keys() - other.arrays.keys()):
            yield f"{name}: {', '.join(missing)} missing"


def read(run: Path) -> Numbers:
    """The losses of a run, its last checkpoint's arrays, and its exported weights."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp
    from jax.tree_util import keystr, tree_leaves_with_path
    from safetensors.numpy import load_file

    lines = [json.loads(line) for line in (run / "train" / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    arrays = {f"hf/{name}": array.tobytes() for name, array in load_file(run / "hf" / "model.safetensors").items()}
    last = run / "train" / "checkpoints" / str(STEPS)
    for item in sorted(path for path in last.iterdir() if path.is_dir()):
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(item).tree
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = handler.restore(item, args=ocp.args.PyTreeRestore(restore_args=args))
        arrays |= {f"{item.name}{keystr(path)}": np.asarray(leaf).tobytes() for path, leaf in tree_leaves_with_path(restored)}
    return Numbers(losses, arrays)


if __name__ == "__main__":
    main()
