"""How fast is a step of LoRA, and what does it need? SmolLM2-135M's shape, 4 rows of 256 tokens, against PEFT + transformers + torch.

Rank 16 on all matrices of the layers, AdamW with clipping, fp32, random weights of the same sizes. Both alternately take whole steps (loss,
gradients, clipping, update); the figure is tokens per second of the median step. Then each takes two steps in a process of its own, whose
peak memory is the second figure; what the process holds before its model is made is said beside it. PEFT recomputes nothing, its fastest
setting; ours keeps what `--remat` says. Finally prints one JSON line. Run from the root: python -m tools.benchmark.lora
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import jax
import numpy as np
import peft
import torch

from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import peft_settings
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer.optimizer import OptimizerConfig
from tools.benchmark import ours, shapes, theirs, turns
from tools.benchmark.train_step import LENGTH, ROWS, batch, tokens_of

CONTESTANTS = ("ours", "peer")
MIB = 1 << 20


def main() -> None:
    """Times both alternately, measures each alone, and prints the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="smollm2")
    parser.add_argument("--remat", choices=("none", "minimal", "attention", "full"), default="minimal")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alone", choices=CONTESTANTS)
    arguments = parser.parse_args()
    architecture, config = shapes.SHAPES[arguments.shape], AdapterConfig(rank=arguments.rank, alpha=2 * arguments.rank)
    tokens = tokens_of(architecture)
    make = {
        "ours": lambda: our_step(architecture, config, arguments.remat, tokens),
        "peer": lambda: peer_step(architecture, config, tokens),
    }
    if arguments.alone:
        print(json.dumps(alone(make[arguments.alone])))
        return
    rates = turns.rates(turns.in_turns({name: build() for name, build in make.items()}, arguments.turns), ROWS * LENGTH)
    memory = {name: in_a_process(name) for name in CONTESTANTS}
    for name, spent in memory.items():
        turns.console.print(f"{name}: {rates[name]:.1f} tokens/s, at its peak {spent['peak']:,} MiB, {spent['before']:,} before its model")
    packages = ("jax", "flax", "optax", "torch", "transformers", "peft")
    settings = {"shape": arguments.shape, "rank": arguments.rank, "remat": arguments.remat}
    print(turns.result("lora", rates["ours"], rates["peer"], "tokens/s", packages, **settings, mebibytes=memory))


def in_a_process(name: str) -> dict[str, int]:
    """What `alone` says of a contestant."""
    words = [sys.executable, "-m", "tools.benchmark.lora", *sys.argv[1:], "--alone", name]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def alone(build: Callable[[], Callable[[], float]]) -> dict[str, int]:
    """The peak resident memory of this process in MiB, before the model is made and after two steps."""
    before = peak()
    take = build()
    take()
    take()
    return {"before": before, "peak": peak()}


def peak() -> int:
    """Of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) // MIB


def our_step(architecture: Architecture, config: AdapterConfig, remat: str, tokens: np.ndarray) -> Callable[[], float]:
    """A function that takes one of our steps and returns its loss."""
    optimizer = OptimizerConfig(learning_rate=1e-4, schedule="constant")
    run, rows = ours.assemble(architecture, optimizer, 100, remat=remat, adapter=config), batch(tokens)

    def take() -> float:
        metrics = run.take(rows)
        jax.block_until_ready(run.state)
        return float(metrics["loss"])

    return take


def peer_step(architecture: Architecture, config: AdapterConfig, tokens: np.ndarray) -> Callable[[], float]:
    """A function that takes a step of PEFT and returns its loss."""
    torch.set_num_threads(turns.num_cores())
    settings = peft_settings(config) | {"inference_mode": False}
    model = peft.get_peft_model(theirs.llama(architecture), peft.LoraConfig(**settings))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    inputs, targets = (torch.tensor(part, dtype=torch.long) for part in (tokens[:, :-1], tokens[:, 1:]))

    def take() -> float:
        optimizer.zero_grad(set_to_none=True)
        scores = model(input_ids=inputs).logits
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    return take


if __name__ == "__main__":
    main()
