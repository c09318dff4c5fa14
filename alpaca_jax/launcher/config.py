"""The settings of `hydra.launcher`: the shape of each job of a sweep, and where it runs."""

from dataclasses import field
from typing import Any, Literal

from alpaca_jax.config import configclass


@configclass
class LauncherConfig:
    """The settings of one launcher; `configs/hydra/launcher/` has their defaults."""

    backend: str
    nodes: int | None = None  # none: the hosts of the slices in its options, else one
    processes_per_node: int = 1
    parallel: int | None = None  # jobs at a time
    restarts: int = 3
    time_limit: int | None = None  # minutes of a job
    secrets: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    folders: Literal["numbers", "keys"] = "numbers"
    folder: str | None = None
    objective: str = "heldout_loss"
    keep_going: bool = False
    detach: bool = False
    poll_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.parallel is not None and self.parallel < 1:
            raise ValueError(f"parallel={self.parallel}: give 1 or more, or null for all at once")
        if self.poll_seconds <= 0:
            raise ValueError(f"poll_seconds={self.poll_seconds}: give more than 0")
