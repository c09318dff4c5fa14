"""Records become examples: token ids of prompt and response, and where the response begins."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

import numpy as np

from alpaca_jax.data.template import Template
from alpaca_jax.data.tokenizer import Tokenizer

AT_ONCE = 1024  # records tokenized together, on all cores


@dataclasses.dataclass(frozen=True)
class Example:
    """One example: `ids` int32 [n], and `learnt` bool [n], true where the token is a target (nothing predicts the first)."""

    ids: np.ndarray
    learnt: np.ndarray

    @classmethod
    def answering(cls, ids: np.ndarray, prompt_length: int) -> "Example":
        """Returns the example whose first `prompt_length` tokens are read and whose others are learnt."""
        return cls(ids, np.arange(len(ids)) >= max(prompt_length, 1))


class ExampleStore(Protocol):
    """Examples by number, wherever they lie."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int [N]."""

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int]) -> list[Example]:
        """Returns the examples of these numbers; may be called from several threads."""
        ...


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples in memory, end to end: `ids` int32 and `learnt` bool [total tokens], `offsets` int64 [N + 1]."""

    ids: np.ndarray
    learnt: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """Returns the given examples in one store."""
        examples = list(examples)
        ids = np.concatenate([np.zeros(0, np.int32), *(example.ids for example in examples)]).astype(np.int32)
        offsets = np.cumsum([0, *(len(example.ids) for example in examples)], dtype=np.int64)
        learnt = np.concatenate([np.zeros(0, bool), *(example.learnt for example in examples)])
        return cls(ids, learnt, offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, indices: Sequence[int]) -> list[Example]:
        """Returns the examples of these numbers."""
        places = [slice(self.offsets[i], self.offsets[i + 1]) for i in indices]
        return [Example(self.ids[place], self.learnt[place]) for place in places]


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of the records. Tokens are those of the kept examples, BOS and EOS included."""

    records: int = 0
    kept: int = 0
    truncated: int = 0  # cut at max_length: kept, but without their EOS
    dropped: int = 0  # longer than max_length, under truncation=drop
    no_target: int = 0  # the prompt alone fills max_length: nothing left to learn, so not kept
    empty_output: int = 0  # the EOS is the only target
    tokens: int = 0
    target_tokens: int = 0


class Record(Protocol):
    """What an example is made from."""

    @property
    def instruction(self) -> str: ...
    @property
    def input(self) -> str: ...
    @property
    def output(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides the example a record becomes."""

    template: Template
    tokenizer: Tokenizer
    max_length: int
    truncation: Literal["truncate", "drop"] = "truncate"


def tokenize(records: Iterable[Record], recipe: Recipe) -> tuple[Examples, Counts]:
    """Returns an example for each record that fits, or may be cut, to `max_length` tokens, in order, and what was counted."""
    counted = Counter[str]()
    examples = Examples.of(stream(records, recipe, counted))
    return examples, Counts(**counted)


def stream(records: Iterable[Record], recipe: Recipe, counted: Counter[str]) -> Iterator[Example]:
    """Yields what `tokenize` returns, one by one, and adds to `counted`, whose keys are the fields of Counts."""
    for ids, prompt_length in _joined(records, recipe):
        length = len(ids)
        counted["records"] += 1
        counted["empty_output"] += length == prompt_length + 1
        if prompt_length >= recipe.max_length:
            counted["no_target"] += 1
        elif length > recipe.max_length and recipe.truncation == "drop":
            counted["dropped"] += 1
        else:
            kept = min(length, recipe.max_length)
            counted.update(kept=1, truncated=length > kept, tokens=kept, target_tokens=kept - prompt_length)
            yield Example.answering(np.array(ids[:kept], np.int32), prompt_length)


def _joined(records: Iterable[Record], recipe: Recipe) -> Iterator[tuple[list[int], int]]:
    """Each record's ids, and how many of them are its prompt's."""
    # Apart and joined: as one string the prompt's last ":" merges with the first character of 3.3% of the Alpaca responses,
    # and a mask by the prompt's length then hides their first target. Joined ids are also what the model sees when it answers.
    template, tokenizer = recipe.template, recipe.tokenizer
    bos = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    records = iter(records)
    while some := list(itertools.islice(records, AT_ONCE)):
        prompts = tokenizer.encode_batch([template.prompt(record.instruction, record.input) for record in some], special=template.special)
        responses = tokenizer.encode_batch([template.response(record.output) for record in some], start=False)
        for prompt, response in zip(prompts, responses, strict=True):
            prompt = prompt if prompt[: len(bos)] == bos else bos + prompt  # a chat template may have brought it
            yield [*prompt, *response, tokenizer.eos_id], len(prompt)
