"""The prompts of a step, out of its examples, and the rows that hold whatever is sampled for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alpaca_jax.data.example import Example, ExampleStore
from alpaca_jax.data.pipeline import Batches
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """What precedes an example's last answer, as ids, and that answer."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]  # with the token that ends it

    @classmethod
    def of(cls, example: Example) -> "Prompt":
        """That of an example: its last run of learnt tokens is the answer."""
        unlearnt = np.flatnonzero(~example.learnt)
        last = int(unlearnt[unlearnt < np.flatnonzero(example.learnt)[-1]][-1]) + 1
        ids = example.ids.tolist()
        return cls(tuple(ids[:last]), tuple(ids[last:]))

    def key(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> str:
        """The answer as text."""
        return tokenizer.decode([token for token in self.answer if token not in stop_ids]).strip()


def of(store: ExampleStore, numbers: Sequence[int]) -> list[Prompt]:
    """The prompts of these examples."""
    return [Prompt.of(example) for item in store.take(list(numbers)) for example in item.parts]


def make_room(batches: Batches, answers: int, max_new_tokens: int, multiple: int, least: int = 0) -> None:
    """Gives the batches the rows that hold `answers` to each prompt of a step, whatever their lengths; a UserError where none do.

    `least`: tokens of the longest example that may stand in the place of an answered prompt.
    """
    config = batches.config
    if config.examples is None or config.packing != "packed":
        raise UserError("a step that samples takes a number of prompts: give batch.examples=N and batch.packing=packed")
    longest = max_new_tokens + max(len(prompt.ids) for prompt in of(batches.examples, range(len(batches.examples))))
    if longest > config.sequence_length:
        raise UserError(
            f"the longest prompt and objective.max_new_tokens={max_new_tokens} are {longest} tokens, which don't fit "
            f"batch.sequence_length={config.sequence_length}: give a batch.sequence_length of {longest}, fewer objective.max_new_tokens, "
            "or a smaller data.max_length with data.truncation=drop"
        )
    longest = max(longest, least)
    # Rows that best fit fills hold at least this many each before it begins another.
    needed = -(-config.examples * answers // (config.sequence_length // longest))
    if config.rows is not None and config.rows < needed:
        raise UserError(f"batch.rows={config.rows} don't hold {config.examples * answers} answers: give {needed}, or null")
    batches.rows = -(-max(needed, config.rows or 0) // multiple) * multiple
