"""Our side of the GPU benchmark; `tools.benchmark.gpu` starts it in its own process, with a Job as JSON."""

import json
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax import hardware
from alpaca_jax.hardware import HardwareConfig
from alpaca_jax.model import flops
from alpaca_jax.model.architecture import Architecture
from tools.benchmark import ours
from tools.benchmark.gpu_job import LENGTH, WARMUPS, Job


def run(job: Job) -> dict[str, Any]:
    """The measurements; see `step` and `full`."""
    architecture, params = job.model()
    batches = job.batches(job.examples())
    steps = job.num_steps(batches)
    total = steps if job.mode == "full" else max(1000, steps)
    trainer = ours.assemble(
        architecture,
        job.optimizer(),
        total,
        dtype=jnp.dtype(job.stored),
        compute_dtype=jnp.bfloat16,
        remat=job.remat,
        microbatches=job.microbatches,
        params=params,
    )
    device = jax.devices()[0]
    chip = hardware.identify(HardwareConfig(), device)
    about = {"device": device.device_kind, "platform": device.platform, "peak_source": chip.source}
    if job.mode == "full":
        return about | full(trainer, batches.stream(0, steps), batches.batch(0))
    return about | step(trainer, [batches.batch(index % batches.steps_per_epoch) for index in range(steps + WARMUPS)], chip, architecture)


def step(trainer: ours.Ours, batches: list[dict[str, np.ndarray]], chip: hardware.Chip, architecture: Architecture) -> dict[str, Any]:
    """Real tokens per second, both MFU, seconds per step, the share of slots filled and peak memory, over the steps after warm-up."""
    placed = [trainer.put(batch) for batch in batches]
    for batch in placed[:WARMUPS]:
        trainer.take(batch)
    jax.block_until_ready(trainer.state)
    start = time.perf_counter()
    for batch in placed[WARMUPS:]:
        metrics = trainer.take(batch)
    jax.block_until_ready(trainer.state)
    seconds = time.perf_counter() - start
    assert np.isfinite(float(metrics["loss"]))

    lengths = [flops.segment_lengths(batch["segments"]) for batch in batches[WARMUPS:]]
    tokens, slots = sum(int(each.sum()) for each in lengths), sum(batch["segments"].size for batch in batches[WARMUPS:])
    work = sum(flops.train_flops(architecture, each) for each in lengths)
    peak = chip.peak_flops or float("nan")
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "tokens_per_second": tokens / seconds,
        "mfu": work / seconds / peak,
        "mfu_full_attention": flops.train_flops_full_attention(architecture, tokens, LENGTH) / seconds / peak,
        "seconds": seconds / len(lengths),
        "fill": tokens / slots,
        "memory": None if memory is None else round(memory / 2**30, 1),
    }


def full(trainer: ours.Ours, batches: Iterable[dict[str, np.ndarray]], first: dict[str, np.ndarray]) -> dict[str, Any]:
    """The loss of each step and the total seconds, including building the batches; compilation is timed separately."""
    start = time.perf_counter()
    trainer.step = trainer.assembly.compile(*first["tokens"].shape)
    compiled = time.perf_counter() - start
    start = time.perf_counter()
    losses = [trainer.take(batch)["loss"] for batch in batches]  # read at the end, so that no step waits for a number
    jax.block_until_ready(trainer.state)
    seconds = time.perf_counter() - start
    return {"losses": [round(float(loss), 6) for loss in losses], "seconds": seconds, "compile_seconds": compiled}


if __name__ == "__main__":
    print(json.dumps(run(Job(**json.loads(sys.argv[1])))))
