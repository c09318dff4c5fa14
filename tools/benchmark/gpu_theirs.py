"""The peer's side of the GPU benchmark, transformers + torch; `tools.benchmark.gpu` starts it in its own process.

It trains like the recipe's script: micro-batches of 4 padded to their longest, bf16 autocast over fp32 weights (or all in bf16, if the
plan says so), fused AdamW, clipping. JAX provides only shapes and initial weights, on the CPU.
"""

import json
import sys
import time
from typing import Any

import jax
import numpy as np
import torch

from alpaca_jax import hardware
from alpaca_jax.data.example import Example, Examples
from alpaca_jax.hardware import HardwareConfig
from alpaca_jax.model import flops, llama
from alpaca_jax.trainer import optimizer as optimizers
from tools.benchmark import theirs, turns
from tools.benchmark.gpu_job import EXAMPLES, LENGTH, THEIR_ROWS, WARMUPS, Job

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Step = tuple[list[theirs.Microbatch], int]  # the microbatches and their target tokens


class Peer:
    """A model and its optimizer."""

    def __init__(self, job: Job, params: Any, steps: int) -> None:
        architecture, _ = job.model()
        torch.manual_seed(0)
        torch.set_num_threads(turns.num_cores())
        self.model = theirs.llama(architecture, params).to(DEVICE, torch.bfloat16 if job.stored == "bfloat16" else torch.float32)
        config = job.optimizer()
        settings = {"betas": config.betas, "eps": config.eps, "weight_decay": 0.0, "fused": DEVICE == "cuda"}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, **settings)
        schedule = optimizers.learning_rate(config, steps)
        self.rates = [float(schedule(step)) for step in range(steps)]
        self.steps = 0

    def take(self, step: Step) -> torch.Tensor:
        """Takes a step and returns its loss, on the device."""
        microbatches, targets = step
        self.optimizer.param_groups[0]["lr"] = self.rates[self.steps]
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=DEVICE)
        for microbatch in microbatches:
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = theirs.summed_loss(self.model, microbatch) / targets
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        return total


def run(job: Job) -> dict[str, Any]:
    """The measurements, in the form of our side's."""
    architecture, params = job.model()
    examples = job.examples()
    batches = job.batches(examples)
    steps = job.num_steps(batches)
    if job.mode == "step":
        peer = Peer(job, None, steps + WARMUPS)
        order = np.random.default_rng(0).permutation(len(examples))
        chosen = [np.roll(order, -EXAMPLES * index)[:EXAMPLES] for index in range(steps + WARMUPS)]
        return step(peer, [microbatched(examples.take(each.tolist())) for each in chosen], architecture)
    if params is None:
        params = jax.jit(lambda key: llama.init(architecture, key))(jax.random.key(0))
    return full(Peer(job, params, steps), examples, batches.indices, steps)


def microbatched(examples: list[Example]) -> Step:
    """The examples as microbatches on the device, in the order given."""
    some = [examples[first : first + THEIR_ROWS] for first in range(0, len(examples), THEIR_ROWS)]
    return [theirs.padded(each, device=DEVICE) for each in some], sum(int(each.learnt.sum()) for each in examples)


def step(peer: Peer, steps: list[Step], architecture: Any) -> dict[str, Any]:
    """The same figures as our side's `step`."""
    for each in steps[:WARMUPS]:
        peer.take(each)
    synchronize()
    start = time.perf_counter()
    for each in steps[WARMUPS:]:
        loss = peer.take(each)
    synchronize()
    seconds = time.perf_counter() - start
    assert torch.isfinite(loss)

    masks = [mask for microbatches, _ in steps[WARMUPS:] for _, mask, _ in microbatches]
    lengths = np.concatenate([mask.sum(1).cpu().numpy() for mask in masks])
    tokens = int(lengths.sum())
    peak = peak_flops()
    return {
        "tokens_per_second": tokens / seconds,
        "mfu": flops.train_flops(architecture, lengths) / seconds / peak,
        "mfu_full_attention": flops.train_flops_full_attention(architecture, tokens, LENGTH) / seconds / peak,
        "seconds": seconds / (len(steps) - WARMUPS),
        "fill": tokens / sum(mask.numel() for mask in masks),
        "memory": round(torch.cuda.max_memory_allocated() / 2**30, 1) if DEVICE == "cuda" else None,
    }


def full(peer: Peer, examples: Examples, indices: Any, steps: int) -> dict[str, Any]:
    """The loss of each step and the total seconds, including building the batches."""
    synchronize()
    start = time.perf_counter()
    losses = []
    for index in range(steps):
        order = np.random.default_rng([1, index]).permutation(indices(index))  # ours sorts examples by length
        losses.append(peer.take(microbatched(examples.take(order.tolist()))))
    synchronize()
    return {"losses": [round(loss.item(), 6) for loss in losses], "seconds": time.perf_counter() - start}


def peak_flops() -> float:
    """The card's dense bf16 peak from our table; for a CPU, the measured one."""
    if DEVICE == "cpu":
        return hardware.identify(HardwareConfig(), jax.devices()[0]).peak_flops or float("nan")
    return hardware.identify(HardwareConfig(name=torch.cuda.get_device_name()), jax.devices()[0]).peak_flops or float("nan")


def synchronize() -> None:
    """Waits for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(run(Job(**json.loads(sys.argv[1])))))
