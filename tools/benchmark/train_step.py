"""How fast is a training step? SmolLM2-135M's shape in fp32, 4 rows of 256 tokens, AdamW with clipping, against transformers + torch.

Both start from random weights of the same sizes and alternately take whole steps (loss, gradients, clipping, update); the figure is
tokens per second of the median step. Finally prints one JSON line. Run from the root: python -m tools.benchmark.train_step
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import jax
import numpy as np
import torch

from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer.optimizer import OptimizerConfig
from tools.benchmark import ours, shapes, theirs, turns

ROWS, LENGTH = 4, 256


def main() -> None:
    """Times both alternately and prints the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="smollm2")
    arguments = parser.parse_args()
    architecture = shapes.SHAPES[arguments.shape]
    tokens = tokens_of(architecture)
    runs = {"ours": our_step(architecture, tokens), "peer": peer_step(architecture, tokens)}
    rates = turns.rates(turns.in_turns(runs, arguments.turns), ROWS * LENGTH)
    packages = ("jax", "flax", "optax", "torch", "transformers")
    print(turns.result("train_step", rates["ours"], rates["peer"], "tokens/s", packages, shape=arguments.shape))


def tokens_of(architecture: Architecture) -> np.ndarray:
    """Random tokens [rows, length + 1]."""
    return np.random.default_rng(0).integers(0, architecture.vocab_size, (ROWS, LENGTH + 1)).astype(np.int32)


def batch(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The batch of our step that predicts every token from those before it."""
    ones = np.ones((ROWS, LENGTH), np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": ones,
        "positions": np.arange(LENGTH, dtype=np.int32) * ones,
        "weights": ones.astype(np.float32),
    }


def our_step(architecture: Architecture, tokens: np.ndarray) -> Callable[[], float]:
    """A function that takes one of our steps and returns its loss."""
    config = OptimizerConfig(learning_rate=1e-4, schedule="constant")
    run, rows = ours.assemble(architecture, config, 100, remat="minimal"), batch(tokens)

    def take() -> float:
        metrics = run.take(rows)
        jax.block_until_ready(run.state)
        return float(metrics["loss"])

    return take


def peer_step(architecture: Architecture, tokens: np.ndarray) -> Callable[[], float]:
    """A function that takes a step of transformers + torch and returns its loss."""
    torch.set_num_threads(turns.num_cores())
    model = theirs.llama(architecture)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    inputs, targets = (torch.tensor(part, dtype=torch.long) for part in (tokens[:, :-1], tokens[:, 1:]))

    def take() -> float:
        optimizer.zero_grad(set_to_none=True)
        scores = model(input_ids=inputs).logits
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return take


if __name__ == "__main__":
    main()
