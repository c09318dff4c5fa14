"""Records become examples: token ids, and which of them are learnt."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

import numpy as np

from alpaca_jax.data.chat import Piece
from alpaca_jax.data.template import Document, Template
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record
from alpaca_jax.tokenizer import Tokenizer

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
    """Examples end to end, in memory or mapped into it: `ids` int32 and `learnt` bool [total tokens], `offsets` int64 [N + 1]."""

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
    empty_output: int = 0  # an answer is empty: it ends as it begins
    tokens: int = 0
    target_tokens: int = 0
    turns: int = 0  # answers behind the first of a kept conversation that are learnt, or their beginnings
    split: int = 0  # examples behind the first of a kept document, under truncation=split


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides the examples a record becomes."""

    template: Template
    tokenizer: Tokenizer
    max_length: int
    truncation: Literal["truncate", "drop", "split"] = "truncate"

    def __post_init__(self) -> None:
        if self.truncation == "split" and not isinstance(self.template, Document):
            raise UserError("data.truncation=split cuts texts for pre-training (data.template=text): give data.truncation=truncate or drop")


def tokenize(records: Iterable[Record], recipe: Recipe) -> tuple[Examples, Counts]:
    """Returns the examples of the records that fit, or may be cut, to `max_length` tokens, in order, and what was counted."""
    counted = Counter[str]()
    examples = Examples.of(stream(records, recipe, counted))
    return examples, Counts(**counted)


def stream(records: Iterable[Record], recipe: Recipe, counted: Counter[str]) -> Iterator[Example]:
    """Yields what `tokenize` returns, one by one, and adds to `counted`, whose keys are the fields of Counts."""
    for record, ids, answers in _joined(records, recipe):
        length, kept = len(ids), min(len(ids), recipe.max_length)
        begun = [(start, min(end, kept)) for start, end in answers if start < kept]
        counted["records"] += 1
        counted["empty_output"] += not all((record.output, *(answer for _, answer in record.turns)))
        if not begun:
            counted["no_target"] += 1
        elif length > kept and recipe.truncation == "drop":
            counted["dropped"] += 1
        elif length > kept and recipe.truncation == "split":
            parts = _split(ids, kept)
            counted["kept"] += 1
            counted["split"] += len(parts) - 1
            counted["tokens"] += length + len(parts) - 1
            counted["target_tokens"] += length - 1
            yield from parts
        else:
            counted["kept"] += 1
            counted["truncated"] += length > kept
            counted["turns"] += len(begun) - 1
            counted["tokens"] += kept
            counted["target_tokens"] += sum(end - start for start, end in begun)
            yield Example(ids[:kept], _learnt(kept, begun))


def prompt_ids(template: Template, tokenizer: Tokenizer, instruction: str, input: str = "") -> list[int]:
    """Returns the ids that training shows before the answer to this instruction, BOS included."""
    return [*_bos(tokenizer), *tokenizer.encode(template.prompt(instruction, input), special=template.special)]


def _bos(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []


def _learnt(length: int, answers: Iterable[tuple[int, int]]) -> np.ndarray:
    learnt = np.zeros(length, bool)
    for start, end in answers:
        learnt[start:end] = True
    return learnt


def _split(ids: np.ndarray, length: int) -> list[Example]:
    """Parts of at most `length` tokens; each begins with the last token of the one before it, so that every token is a target once."""
    return [Example.answering(ids[start : start + length], 1) for start in range(0, len(ids) - 1, length - 1)]


def _joined(records: Iterable[Record], recipe: Recipe) -> Iterator[tuple[Record, np.ndarray, list[tuple[int, int]]]]:
    """Each record with its ids, and from where to where it is learnt: its answers, the token that ends each included."""
    # Apart and joined: as one string the prompt's last ":" merges with the first character of 3.3% of the Alpaca responses,
    # and a mask by the prompt's length then hides their first target. Joined ids are also what the model sees when it answers.
    template, tokenizer = recipe.template, recipe.tokenizer
    records, bos = iter(records), _bos(tokenizer)
    while some := list(itertools.islice(records, AT_ONCE)):
        pieces = [template.pieces(record) for record in some]
        encoded = _encoded(pieces, recipe)
        for record, parts in zip(some, pieces, strict=True):
            ids, answers = list(bos), []
            for piece in parts:
                start = max(len(ids), 1)  # nothing predicts the first token
                ids += next(encoded)
                if piece.learnt:
                    ids.append(template.end_id)
                    answers.append((start, len(ids)))
            yield record, np.array(ids, np.int32), answers


def _encoded(records: Sequence[Sequence[Piece]], recipe: Recipe) -> Iterator[list[int]]:
    """The ids of all pieces in order; those of a kind are encoded together."""
    template, tokenizer = recipe.template, recipe.tokenizer
    # An answer goes on from its prompt. A prompt behind the token that ends an answer starts anew, as a record's first piece does.
    pieces = [(piece, (place == 0 or not piece.learnt, piece.learnt)) for record in records for place, piece in enumerate(record)]
    encoded = {}
    for kind in {kind for _, kind in pieces}:
        start, learnt = kind
        texts = [piece.text for piece, each in pieces if each == kind]
        special = template.special_answer if learnt else template.special
        encoded[kind] = iter(tokenizer.encode_batch(texts, start=start, special=special))
    return (next(encoded[kind]) for _, kind in pieces)
