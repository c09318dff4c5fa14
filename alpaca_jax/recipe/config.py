"""What a recipe runs, stage by stage."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from alpaca_jax.config import configclass
from alpaca_jax.grammar import written
from alpaca_jax.ranges import Seed

SETTING = r"(?!hydra\b)\w[\w.]*="

# What the summaries have of each verb: of train, whatever its settings measure; of evaluate, that of the model after training.
OBJECTIVES = {
    "train": ("heldout_loss", "heldout_loss_ema", "suites/", "compare/", "best_value", "loss", "final_loss", "tokens_real", "seconds"),
    "evaluate": ("heldout_loss_after", "heldout_loss_fall", "suites."),
    "generate": ("records_kept", "dollars"),
}


@configclass
class Stage:
    """One verb of the run."""

    verb: Literal["generate", "train", "evaluate", "convert", "inspect"]
    output: str  # the folder that the verb writes, inside dir
    arguments: tuple[str, ...] = ()  # set by the recipe
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)  # set by the user, nested like the verb's keys

    def __post_init__(self) -> None:
        # An experiment may come from a stranger: a stage takes settings of its verb, no option and nothing for Hydra, and writes below dir.
        for argument in (*self.arguments, *self.added()):
            if not re.match(SETTING, argument):
                raise ValueError(f"{argument!r} is not a setting of a verb, KEY=VALUE: a stage takes no other argument")
        if ".." in (output := PurePosixPath(self.output)).parts or output.is_absolute() or not output.name:
            raise ValueError(f"output={self.output}: give the name of a folder inside dir")

    def command(self, experiment: str | None) -> list[str]:
        """Returns the command line after `alpaca-jax`; the user's overrides come last, so they win."""
        chosen = [f"experiment={experiment}"] if experiment else []
        return [self.verb, *chosen, *self.arguments, *self.added()]

    def added(self) -> list[str]:
        """Returns the user's overrides as key=value."""
        return [f"{key}={value if isinstance(value, str) else _written(value)}" for key, value in _leaves(self.overrides)]


@configclass
class Config:
    """A run: its folder, its experiment, and its stages in order."""

    dir: str
    seed: Seed = 0
    experiment: str | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # an experiment's own, which its stages refer to
    stages: dict[str, Stage]

    @property
    def objectives(self) -> list[str]:
        """The figures that a sweep may rank runs by; one that ends in `.` or `/` stands for those inside it."""
        verbs = {stage.verb for stage in self.stages.values()}
        return [name for verb, names in OBJECTIVES.items() if verb in verbs for name in names] + ["seconds_total", "peak_memory_bytes"]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages: a recipe needs at least one; choose an experiment that has stages, such as experiment=laptop")
        for name in self.stages:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"stages.{name}: a stage's name consists of lower-case letters, digits and underscores")


def _written(value: Any) -> str:
    """JSON where Hydra reads it alike; it knows neither escapes such as \\u4f60 and \\n, nor quotes around a key."""
    text = json.dumps(value)
    return written(value) if re.search(r"[\\{]|NaN", text) else text


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
