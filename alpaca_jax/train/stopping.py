"""Early stopping: which evaluation was the best so far, and whether enough have come since."""

import dataclasses
import math
from typing import Literal

from alpaca_jax.config import configclass
from alpaca_jax.metrics.direction import Mode, better
from alpaca_jax.ranges import Nonnegative, Positive


@configclass
class StoppingConfig:
    """The run ends after `patience` evaluations in a row without an improvement of `metric`; the checkpoint of the best is kept."""

    metric: str = "heldout_loss"  # a figure that the evaluations measure
    patience: Positive | None = 3  # null: the run never ends early, and only keeps the best
    min_delta: Nonnegative = 0.0  # a change that isn't larger is no improvement
    mode: Mode | None = None  # null: as its name says: losses are minimized, scores maximized

    def __post_init__(self) -> None:
        if self.mode is None and better(self.metric) is None:
            raise ValueError(f"metric={self.metric}: whether less or more of it is better isn't known; give mode=min or mode=max")

    @property
    def direction(self) -> Mode:
        """Whether less or more of the metric is better."""
        return self.mode or better(self.metric) or "min"


@configclass
class Best:
    """The best evaluation so far by one metric, and how many came after it; a checkpoint holds it, so that a resumed run decides alike."""

    metric: str
    mode: Literal["min", "max"]
    value: float | None = None
    step: int | None = None
    waited: int = 0  # evaluations since
    seen: int | None = None  # the step of the newest one

    def after(self, step: int, value: float, min_delta: float) -> "Best":
        """Returns what is the best once the evaluation of `step` has given `value`; one that was seen before changes nothing."""
        if self.seen is not None and step <= self.seen:
            return self
        gain = math.inf if self.value is None else value - self.value if self.mode == "max" else self.value - value
        if math.isfinite(value) and gain > min_delta:
            return dataclasses.replace(self, value=value, step=step, waited=0, seen=step)
        return dataclasses.replace(self, waited=self.waited + 1, seen=step)


class Stopping:
    """Follows one metric through a run; `best` is what its checkpoints remember. Without a config it never ends anything."""

    def __init__(self, config: StoppingConfig | None, best: Best | None) -> None:
        self._config = config
        self.best: Best | None = None
        if config is not None:
            fresh = Best(metric=config.metric, mode=config.direction)
            same = best is not None and (best.metric, best.mode) == (fresh.metric, fresh.mode)
            self.best = best if same else fresh

    def heard(self, step: int, figures: dict[str, float]) -> bool:
        """Takes in the figures of an evaluation; True where it is the best so far. One that lacks the metric says nothing."""
        if self._config is None or self.best is None or self._config.metric not in figures:
            return False
        self.best = self.best.after(step, figures[self._config.metric], self._config.min_delta)
        return self.best.step == step

    @property
    def over(self) -> bool:
        """Whether the run is to end."""
        patience = None if self._config is None else self._config.patience
        return patience is not None and self.best is not None and self.best.waited >= patience
