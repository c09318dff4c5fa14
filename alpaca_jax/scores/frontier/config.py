"""What the key `frontier` of a config holds."""

import dataclasses

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Nonnegative


@configclass
class Recorded:
    """A teacher whose answers were taken from a file without a manifest: its bill is computed from the tokens of its records."""

    records: str  # the name of that file
    prompt: Nonnegative  # dollars per million tokens
    completion: Nonnegative
    source: str  # where these prices were read


@configclass
class FrontierConfig:
    """Prices that no file of a run holds; one that is needed and isn't known is an error."""

    prices: dict[str, Nonnegative] = dataclasses.field(default_factory=dict)  # of an hour of one device, by chip; before the list's
    teachers: dict[str, Recorded] = dataclasses.field(default_factory=dict)  # by name
