"""What the parts of one evaluation share."""

import dataclasses

from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.settings import Settings
from alpaca_jax.rundir import RunDir
from alpaca_jax.terminal import Console


@dataclasses.dataclass(frozen=True)
class Context:
    """The settings of an evaluation, where it is kept, and where people are told about it.

    While a model is in memory, `label` is its place, and the template in `settings` is its own.
    """

    config: Config
    settings: Settings
    folder: RunDir
    console: Console  # for messages and progress; results go to the standard output
    label: str = "after"
