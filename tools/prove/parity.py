"""The same training twice: our step on packed or padded rows, and transformers + torch on the same examples in the same steps."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import torch

from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import Batch
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer.optimizer import OptimizerConfig
from tools.benchmark import ours, theirs

Progress = Callable[[int, float], None]  # called with each step and its loss


def silent(step: int, loss: float) -> None:
    """Prints nothing."""


def our_losses(
    architecture: Architecture,
    params: llama.Params,
    batches: Iterable[Batch],
    config: OptimizerConfig,
    steps: int,
    microbatches: int = 1,
    progress: Progress = silent,
) -> tuple[list[float], llama.Params]:
    """The loss of each of our steps from these params, and the params after the last one."""
    run = ours.assemble(architecture, config, steps, microbatches=microbatches, remat="minimal", params=params)
    losses = []
    for step, batch in enumerate(batches):
        losses.append(float(run.take(batch)["loss"]))
        progress(step, losses[-1])
    assert len(losses) == steps
    return losses, jax.tree.map(np.asarray, run.state.trained)


def their_losses(
    model: torch.nn.Module,
    steps_of: Iterable[Sequence[Example]],
    config: OptimizerConfig,
    steps: int,
    rows: int = 4,
    progress: Progress = silent,
) -> list[float]:
    """The loss of each of their steps, which update `model`: microbatches of `rows` examples padded to the longest of them.

    A step's loss is the sum over its target tokens divided by their number; AdamW and clipping have our hyperparameters.
    """
    assert config.name == "adamw" and config.weight_decay == 0 and config.clip is not None
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=config.betas, eps=config.eps, weight_decay=0.0)
    rate = optimizers.learning_rate(config, steps)
    losses = []
    for step, examples in enumerate(steps_of):
        optimizer.param_groups[0]["lr"] = float(rate(step))
        targets = sum(int(example.learnt.sum()) for example in examples)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for first in range(0, len(examples), rows):
            loss = _summed_loss(model, theirs.padded(examples[first : first + rows])) / targets
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(total)
        progress(step, total)
    assert len(losses) == steps
    return losses


def _summed_loss(model: torch.nn.Module, microbatch: theirs.Microbatch) -> torch.Tensor:
    """The summed cross-entropy of the target tokens; no logits are computed for the others."""
    ids, mask, labels = microbatch
    hidden, following = model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1], labels[:, 1:]
    learnt = following != theirs.IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[learnt]), following[learnt], reduction="sum")


def relative(losses: Sequence[float], reference: Sequence[float]) -> np.ndarray:
    """The relative difference of two curves at each step."""
    one, other = np.asarray(losses), np.asarray(reference)
    return np.abs(one - other) / np.abs(other)


def distances(params: Any, reference: Any, start: Any) -> dict[str, float]:
    """The distance of two models: the largest difference of a weight, and the norm of all differences over that of their movement."""
    flat, other, first = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]) for tree in (params, reference, start)
    )
    moved = np.linalg.norm(other - first)
    return {
        "largest difference": float(np.abs(flat - other).max()),
        "largest weight": float(np.abs(other).max()),
        "difference / weights": float(np.linalg.norm(flat - other) / np.linalg.norm(other)),
        "difference / movement": float(np.linalg.norm(flat - other) / moved),
    }
