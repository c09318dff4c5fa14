"""Checks what Hydra's sweeper is told before it starts: its settings, how many combinations there are, and what it would call."""

import enum
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from alpaca_jax.composition import references
from alpaca_jax.composition.plugins import check_settings
from alpaca_jax.config import configclass, parse
from alpaca_jax.errors import UserError
from alpaca_jax.launcher.objective import Objective
from alpaca_jax.ranges import Positive, Share

MOST = 10_000  # combinations of a sweep
Direction = Literal["minimize", "maximize"]
DIRECTION = "hydra.sweeper.direction"


@configclass
class SweeperConfig:
    """The settings of `hydra.sweeper`, Hydra's own and Optuna's."""

    max_batch_size: Positive | None = None
    params: dict[str, Any] | None = None
    sampler: dict[str, Any] | None = None
    direction: Direction | list[Direction] = "minimize"
    storage: str | None = None
    study_name: str | None = None
    n_trials: Positive = 20
    n_jobs: Positive = 2
    max_failure_rate: Share = 0.0
    search_space: dict[str, Any] | None = None


def check(base: DictConfig) -> None:
    """A UserError if Hydra would call what isn't in our lists, or if a setting of its sweeper or a reference can't be meant."""
    whole: Any = OmegaConf.to_container(base, resolve=False)
    hydra = whole["hydra"]
    for name in ("launcher", "sweeper"):
        if not isinstance(hydra[name], dict):
            raise UserError(f"hydra.{name}={hydra[name]}: has settings, and is none itself; give hydra.{name}.KEY=VALUE")
    check_settings(hydra)
    references.check(whole | {"hydra": {name: hydra[name] for name in ("launcher", "sweeper")}})
    own = {key: value for key, value in hydra["sweeper"].items() if key not in ("_target_", "custom_search_space")}
    if isinstance(own.get("direction"), enum.Enum):
        own["direction"] = own["direction"].name
    parse(SweeperConfig, own, "hydra.sweeper")


def directed(overrides: Sequence[str], objective: Objective) -> list[str]:
    """The override that has the sweeper look for the best of the objective, unless it is given; a UserError where that says otherwise."""
    given = [override.partition("=")[2] for override in overrides if override.lstrip("+").startswith(f"{DIRECTION}=")]
    if not given:
        return [f"{DIRECTION}={objective.direction}"]
    if given[-1] != objective.direction:
        raise UserError(
            f"{DIRECTION}={given[-1]}, but {objective.name} gets better the other way; leave it out, "
            f"or say hydra.launcher.mode={given[-1].removesuffix('imize')}"
        )
    return []


def check_size(overrides: Iterable[Override]) -> None:
    """A UserError if the overrides make more than MOST combinations."""
    count = 1.0
    for each in overrides:
        value = each.value()
        if isinstance(value, RangeSweep):
            count *= _length(each.key_or_group, value)
        elif isinstance(value, ChoiceSweep):
            count *= len(value.list)
        if not count <= MOST:
            raise UserError(f"{each.key_or_group}: with it, the sweep has more than {MOST:,} combinations")


def _length(key: str, sweep: RangeSweep) -> float:
    ends = (sweep.start, sweep.stop, sweep.step)
    start, stop, step = (math.nan if end is None else float(end) for end in ends)
    if not step or not all(map(math.isfinite, (start, stop, step))):
        raise UserError(f"{key}: range(START, STOP, STEP) takes numbers, and a STEP other than 0")
    return max(0.0, math.ceil((stop - start) / step))
