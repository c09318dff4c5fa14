"""The groups `data` and `batch` of a train config."""

import dataclasses
from typing import Annotated, Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import AUTO, Above0, Length, Natural, OrAuto, Positive, Range

Example = Annotated[int, Range(2, 2**24, give="2 or more tokens, one of a prompt and one of an answer")]

# What is made of a record: the answers that are learnt; or a pair, chosen and rejected; or its last answer with a mark.
Form = Literal["answers", "pairs", "labelled"]


@configclass
class SourceConfig:
    """One of several sets of records to train on together."""

    records: str  # a file or folder
    weight: Above0 | None = None  # its share of the tokens, relative to the other sources' weights
    epochs: Above0 | None = None  # instead of weight: repetitions of its examples in an epoch; 1.1: all once, and a random tenth twice
    template: str | None = None  # null: data.template
    truncation: Literal["truncate", "drop", "split"] | None = None  # null: data.truncation


@configclass
class DataConfig:
    """Which records to train on, and how they become examples."""

    records: str | None = None  # a file or folder; null: the run's own dir/records
    template: str = "auto"  # which follows the records: the tokenizer's chat template for conversations, Alpaca's for instructions
    heldout: Natural = 0  # number of records kept out of training, chosen by the hash of their id
    limit: Positive | None = None  # most records to train on (of each source), by the same hash, after those held out; null: all
    on_error: Literal["stop", "skip"] = "stop"  # what to do at a broken record
    max_length: Annotated[Example, OrAuto()] = 512  # most tokens of an example, BOS and EOS included
    truncation: Literal["truncate", "drop", "split"] = "truncate"  # what to do with a longer one
    cache: str | None = None  # folder of built datasets; null: ~/.cache/alpaca_jax/data
    sources: dict[str, SourceConfig] = dataclasses.field(default_factory=dict)  # instead of records: several sets, by name

    def __post_init__(self) -> None:
        if self.sources:
            self._check_sources(self.sources)

    def _check_sources(self, sources: dict[str, SourceConfig]) -> None:
        if self.records is not None:
            raise ValueError(
                f"data.records={self.records} and data.sources: give only one of them; the records may become one of the sources"
            )
        for name, source in sources.items():
            if source.weight is None and source.epochs is None:
                raise ValueError(
                    f"data.sources.{name}: give weight, its share of the tokens, or epochs, such as data.sources.{name}.epochs=1"
                )
        weighted = [name for name, source in sources.items() if source.weight is not None]
        repeated = [name for name, source in sources.items() if source.epochs is not None]
        if weighted and repeated:
            raise ValueError(
                f"data.sources.{weighted[0]}.weight and data.sources.{repeated[0]}.epochs can't be mixed: "
                "give every source a weight, or every source epochs"
            )


@configclass
class BatchConfig:
    """How many examples or tokens a step takes, and the rows that hold them."""

    examples: Positive | None = None  # exactly this many in every step
    tokens: Positive | None = None  # instead of examples: the slots of a step, filled with as many examples as fit
    sequence_length: Annotated[Length, OrAuto()] = 512  # slots of a row
    rows: Positive | None = None  # null: the fewest that hold every step of the run
    packing: Literal["packed", "none"] = "packed"  # none: one example a row
    buckets: tuple[Length, ...] | None = None  # the row lengths of packing=none; null: powers of two from 64 up, and sequence_length

    def __post_init__(self) -> None:
        if (self.examples is None) == (self.tokens is None):
            raise ValueError(
                f"batch.examples={_text(self.examples)} and batch.tokens={_text(self.tokens)}: give one of them, and null for the other"
            )
        if self.sequence_length == AUTO:
            return  # checked again once it is chosen
        if self.tokens is not None:
            self._check_tokens(self.tokens)
        if self.buckets is not None:
            self._check_buckets(self.buckets)

    def _check_tokens(self, tokens: int) -> None:
        if self.packing == "none":
            raise ValueError(f"batch.tokens={tokens} needs packed rows: give batch.packing=packed, or batch.examples instead")
        rows, rest = divmod(tokens, self.sequence_length)
        if rest:
            raise ValueError(
                f"batch.tokens={tokens} is not a whole number of rows of batch.sequence_length={self.sequence_length}: "
                f"give batch.tokens={max(rows, 1) * self.sequence_length}"
            )
        if self.rows not in (None, rows):
            raise ValueError(f"batch.tokens={tokens} is {rows} rows of {self.sequence_length}, not batch.rows={self.rows}: leave rows null")

    def _check_buckets(self, buckets: tuple[int, ...]) -> None:
        if self.packing != "none":
            raise ValueError(
                "batch.buckets are the row lengths of batch.packing=none; packed rows have batch.sequence_length: leave it null"
            )
        if not buckets or max(buckets) > self.sequence_length:
            raise ValueError(
                f"batch.buckets={list(buckets)}: give lengths from 1 to batch.sequence_length={self.sequence_length}, which is always used"
            )


def _text(value: int | None) -> str:
    return "null" if value is None else str(value)
