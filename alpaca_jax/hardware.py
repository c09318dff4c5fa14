"""Accelerators and their peaks. Each figure names its source; a device missing from the table has no peak unless it is measured."""

import dataclasses
import time
from typing import Any, Literal

import psutil

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Above0, Nonnegative


@configclass
class HardwareConfig:
    """The hardware of a run and its price; everything is optional."""

    name: str = "auto"
    peak_tflops: Above0 | None = None
    dollars_per_hour: Nonnegative | None = None  # of the whole job, as the user's provider charges it
    memory_gb: Above0 | None = None  # of one device; null: what it reports, of a CPU its share of the machine's


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device: dense bf16 peak in FLOP/s (None: unknown) and where the figure comes from."""

    name: str
    peak_flops: float | None
    source: str


_DATASHEETS = "the maker's data sheet, dense bf16, read 2026-11"
_CHIPS = {
    "A100": Chip("A100", 312e12, _DATASHEETS),
    "H100": Chip("H100", 989.4e12, _DATASHEETS),
    "H200": Chip("H200", 989.4e12, _DATASHEETS),
    "TPU v4": Chip("TPU v4", 275e12, _DATASHEETS),
    "TPU v5 lite": Chip("TPU v5e", 197e12, _DATASHEETS),
    "TPU v5e": Chip("TPU v5e", 197e12, _DATASHEETS),
    "TPU v5p": Chip("TPU v5p", 459e12, _DATASHEETS),
    "TPU v5": Chip("TPU v5p", 459e12, _DATASHEETS),
    "TPU v6": Chip("TPU v6e", 918e12, _DATASHEETS),
}


@dataclasses.dataclass(frozen=True)
class Price:
    """What an hour of one device costs on demand, in dollars, and where that was read."""

    dollars_per_hour: float
    source: str


# The upper ends of the ranges that are given there: providers differ by a factor of two and more, and a bill should not come out too low.
_GPUS = "the upper end of the on-demand list prices at pricegpu.pages.dev/blog/h100-vs-a100-cloud-price, early 2026"
_CLOUDS = "the upper end of the specialised clouds' on-demand prices at mercatus-ai.com/blog/cloud-gpu-pricing, May 2026"
_PRICES = {"A100": Price(2.49, _GPUS), "H100": Price(3.99, _GPUS), "H200": Price(4.50, _CLOUDS)}


def list_price(chip: str) -> Price | None:
    """Returns what an hour of a chip of this name costs at list price; None where no price is known, as of a CPU or the user's own."""
    return _PRICES.get(chip)


def peak_flops(chip: str) -> float | None:
    """Returns the dense bf16 peak of a chip of this name in FLOP/s; None where it isn't in the table."""
    return _CHIPS[chip].peak_flops if chip in _CHIPS else None


def identify(config: HardwareConfig, device: Any) -> Chip:
    """The chip of `device` (a jax.Device). The user's figure overrides the table; a CPU's fp32 product is measured (in half a second)."""
    if config.peak_tflops is not None:
        return Chip(config.name if config.name != "auto" else device.device_kind, config.peak_tflops * 1e12, "hardware.peak_tflops")
    wanted = device.device_kind if config.name == "auto" else config.name
    for key, chip in _CHIPS.items():
        if key.lower() in wanted.lower():
            return chip
    if device.platform == "cpu":
        return Chip("cpu", _measured_peak(device), "an fp32 product of 2048 x 2048 measured at the start of the run")
    return Chip(wanted, None, "unknown device: no peak, so no MFU; set hardware.peak_tflops")


def precision(device: Any) -> Literal["float32", "bfloat16"]:
    """What a model is computed with by default: bfloat16 where the device multiplies it at full speed."""
    if device.platform == "cpu":
        return "float32"
    capability = str(getattr(device, "compute_capability", "") or "8.0")  # of an NVIDIA GPU: bfloat16 came with 8.0
    return "bfloat16" if float(capability) >= 8 else "float32"


def memory(config: HardwareConfig, device: Any, beside: int) -> float | None:
    """The bytes of memory of one of `beside` devices of this process; None where the device doesn't tell."""
    if config.memory_gb is not None:
        return config.memory_gb * 1e9
    if device.platform == "cpu":
        return psutil.virtual_memory().total / beside
    return (device.memory_stats() or {}).get("bytes_limit")


def _measured_peak(device: Any, size: int = 2048, repeats: int = 3) -> float:
    import jax
    import jax.numpy as jnp

    with jax.default_device(device):
        matrix = jnp.ones((size, size), jnp.float32)
        product = jax.jit(jnp.matmul)
        product(matrix, matrix).block_until_ready()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            product(matrix, matrix).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
