"""The settings of `hydra.launcher`: the shape of each job of a sweep, and where it runs."""

from dataclasses import field
from typing import Any, Literal

from alpaca_jax.config import configclass
from alpaca_jax.metrics.direction import Mode
from alpaca_jax.ranges import Duration, Natural, Positive


@configclass
class LauncherConfig:
    """The settings of one launcher; `configs/hydra/launcher/` has their defaults."""

    backend: str
    nodes: Positive | None = None  # none: the hosts of the slices in its options, else one
    processes_per_node: Positive = 1
    parallel: Positive | None = None  # jobs at a time; null: all at once
    restarts: Natural = 3
    time_limit: Positive | None = None  # minutes of a job
    secrets: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    folders: Literal["numbers", "keys"] = "numbers"
    folder: str | None = None
    objective: str = "heldout_loss"
    mode: Mode | None = None  # null: as the objective's name says
    keep_going: bool = False
    detach: bool = False
    poll_seconds: Duration = 1.0
