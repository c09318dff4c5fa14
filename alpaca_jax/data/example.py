"""Records become examples: token ids of prompt and response, and where the response begins."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

import numpy as np

from alpaca_jax.data.template import Template


@dataclasses.dataclass(frozen=True)
class Example:
    """One example: `ids` int32 [n], of which the first `prompt_length` are read and the others are learnt."""

    ids: np.ndarray
    prompt_length: int


@dataclasses.dataclass(frozen=True)
class Examples(Sequence[Example]):
    """Many examples end to end: `ids` int32 [total tokens], `offsets` int64 [N + 1], `prompt_lengths` int32 [N]."""

    ids: np.ndarray
    offsets: np.ndarray
    prompt_lengths: np.ndarray

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """Returns the given examples in one store."""
        examples = list(examples)
        ids = np.concatenate([np.zeros(0, np.int32), *(example.ids for example in examples)]).astype(np.int32)
        offsets = np.cumsum([0, *(len(example.ids) for example in examples)], dtype=np.int64)
        return cls(ids, offsets, np.array([example.prompt_length for example in examples], np.int32))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        return Example(self.ids[self.offsets[index] : self.offsets[index + 1]], int(self.prompt_lengths[index]))


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of the records. Tokens are those of the kept examples, BOS and EOS included."""

    records: int = 0
    kept: int = 0
    truncated: int = 0  # cut at max_length: kept, but without their EOS
    dropped: int = 0  # longer than max_length, under truncation=drop
    no_target: int = 0  # the prompt alone fills max_length: nothing left to learn, so not kept
    empty_output: int = 0  # kept, with the EOS as its only target
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


class Tokenizer(Protocol):
    """What is asked of a tokenizer here; `data.tokenizer.Tokenizer` is one."""

    bos_id: int | None
    eos_id: int
    adds_bos: bool

    def encode(self, text: str, start: bool = True, special: bool = False) -> list[int]: ...


def tokenize(
    records: Iterable[Record],
    template: Template,
    tokenizer: Tokenizer,
    max_length: int,
    truncation: Literal["truncate", "drop"] = "truncate",
) -> tuple[Examples, Counts]:
    """Returns an example for each record that fits or may be cut to `max_length` tokens, in order, and what was counted."""
    kept: list[Example] = []
    seen = dict.fromkeys((field.name for field in dataclasses.fields(Counts)), 0)
    for ids, prompt_length in _joined(records, template, tokenizer):
        seen["records"] += 1
        seen["empty_output"] += len(ids) == prompt_length + 1
        if prompt_length >= max_length:
            seen["no_target"] += 1
        elif len(ids) > max_length and truncation == "drop":
            seen["dropped"] += 1
        else:
            seen["truncated"] += len(ids) > max_length
            kept.append(Example(np.array(ids[:max_length], np.int32), prompt_length))
    examples = Examples.of(kept)
    seen |= {"kept": len(kept), "tokens": len(examples.ids), "target_tokens": len(examples.ids) - int(examples.prompt_lengths.sum())}
    return examples, Counts(**seen)


def _joined(records: Iterable[Record], template: Template, tokenizer: Tokenizer) -> Iterator[tuple[list[int], int]]:
    # Apart and joined: as one string the prompt's last ":" merges with the first character of 3.3% of the Alpaca responses,
    # and a mask by the prompt's length then hides their first target. Joined ids are also what the model sees when it answers.
    for record in records:
        prompt = tokenizer.encode(template.prompt(record.instruction, record.input), special=template.special)
        if tokenizer.adds_bos and tokenizer.bos_id is not None and prompt[:1] != [tokenizer.bos_id]:
            prompt = [tokenizer.bos_id, *prompt]
        response = tokenizer.encode(template.response(record.output), start=False)
        yield [*prompt, *response, tokenizer.eos_id], len(prompt)
