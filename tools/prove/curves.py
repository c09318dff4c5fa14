"""Plots loss curves and their differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from tools.prove.parity import relative

SIZE, DOTS = (7.2, 5.4), 100  # inches, and pixels per inch


def draw_parity(path: Path, losses: Mapping[str, Sequence[float]], tolerance: float) -> None:
    """Writes a PNG of the curves "packed", "padded" and "torch", with the relative differences of ours from torch's below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=SIZE, sharex=True, layout="constrained")
    steps = np.arange(1, len(losses["torch"]) + 1)
    styles = {"torch": ("transformers + torch, padded", "black", 3.5, "-"), "padded": ("ours, padded", "tab:orange", 2.0, "-")}
    styles["packed"] = ("ours, packed", "tab:blue", 1.2, "--")
    for name, (label, color, width, style) in styles.items():
        above.plot(steps, losses[name], label=label, color=color, linewidth=width, linestyle=style)
        if name != "torch":
            difference = np.maximum(relative(losses[name], losses["torch"]), 1e-9)
            below.semilogy(steps, difference, label=label, color=color, linestyle=style)
    below.axhline(tolerance, color="tab:red", linewidth=1, label="allowed")
    above.set(ylabel="loss, nats a target token", title="The same examples in the same steps")
    below.set(ylabel="relative difference from torch", xlabel="step")
    _finish(figure, (above, below), path)


def draw_published(path: Path, ours: Sequence[float], variants: Mapping[str, Sequence[float]]) -> None:
    """Writes a PNG of our curve and the variants' curves, with their relative differences from ours."""
    figure, (above, below) = plt.subplots(2, 1, figsize=SIZE, sharex=True, layout="constrained")
    steps = np.arange(1, len(ours) + 1)
    above.plot(steps, ours, label="ours", color="black")
    for name, losses in variants.items():
        (line,) = above.plot(steps, losses, label=name, linewidth=1)
        below.plot(steps, np.asarray(losses) / np.asarray(ours) - 1, label=name, color=line.get_color(), linewidth=1)
    below.axhline(0.0, color="black", linewidth=0.8)
    above.set(ylabel="loss as each reports it", title="What the published masks and means would have done")
    below.set(ylabel="relative difference from ours", xlabel="step")
    _finish(figure, (above, below), path)


def _finish(figure: plt.Figure, axes: Sequence[plt.Axes], path: Path) -> None:
    for each in axes:
        each.grid(alpha=0.3)
        each.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS)
    plt.close(figure)
