"""What the groups `data` and `batch` of a train config hold."""

from typing import Literal

from alpaca_jax.config import configclass


@configclass
class DataConfig:
    """Which records, and how they become examples."""

    records: str | None = None  # a file or folder; null: the run's own dir/records
    template: str = "alpaca"
    heldout: int = 0  # records kept out of training, chosen by the hash of their id
    on_error: Literal["stop", "skip"] = "stop"  # at a broken record
    max_length: int = 512  # tokens of one example, BOS and EOS included
    truncation: Literal["truncate", "drop"] = "truncate"  # what happens to a longer one
    cache: str | None = None  # where built datasets lie; null: ~/.cache/alpaca_jax/data

    def __post_init__(self) -> None:
        if self.heldout < 0:
            raise ValueError(f"data.heldout={self.heldout}: give 0 or more records")
        if self.max_length < 2:
            raise ValueError(f"data.max_length={self.max_length}: an example needs a prompt and a target token; give 2 or more")


@configclass
class BatchConfig:
    """How many examples a step takes, and the rows they lie in."""

    examples: int
    sequence_length: int = 512  # slots of a row
    rows: int | None = None  # null: the smallest number that holds every step of the run
    packing: Literal["packed", "none"] = "packed"  # none: one example a row

    def __post_init__(self) -> None:
        for name, value in (("examples", self.examples), ("sequence_length", self.sequence_length), ("rows", self.rows)):
            if value is not None and value < 1:
                raise ValueError(f"batch.{name}={value}: give 1 or more")
