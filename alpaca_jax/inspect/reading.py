"""A batch as text: the examples of each row, with context and targets marked."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from alpaca_jax.data.config import Form
from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import Batch
from alpaca_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Span:
    """A piece of text whose tokens are of one kind: learnt or context, special tokens or text."""

    text: str
    learnt: bool
    special: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch: its examples in order, what each of them is ("" where there is but one kind), and the number of empty slots."""

    examples: list[Example]
    kinds: list[str]
    empty: int

    @property
    def tokens(self) -> int:
        """Real tokens in the row."""
        return sum(len(example.ids) for example in self.examples)

    @property
    def learnt(self) -> int:
        """How many of them are learnt."""
        return sum(int(example.learnt.sum()) for example in self.examples)


def rows(batch: Batch, count: int, form: Form = "answers") -> list[Row]:
    """Returns the first `count` rows of a batch, with the examples read back from the arrays that the training step gets."""
    return [_row(batch, row, form) for row in range(min(count, len(batch["tokens"])))]


def spans(example: Example, tokenizer: Tokenizer) -> list[Span]:
    """Returns the decoded example in pieces, with special tokens spelled out."""
    special = np.isin(example.ids, list(tokenizer.backend.specials.values()))
    kinds = list(zip(example.learnt.tolist(), special.tolist(), strict=True))
    pieces = []
    for (learnt, is_special), run in itertools.groupby(range(len(kinds)), key=kinds.__getitem__):
        places = list(run)
        pieces.append(Span(_text(example.ids, places[0], places[-1] + 1, tokenizer), learnt, is_special))
    return pieces


def _row(batch: Batch, row: int, form: Form) -> Row:
    segments = batch["segments"][row]
    examples = list(_examples(batch, row, segments))
    return Row(examples, [_kind(batch, row, slot, form) for slot in range(len(examples))], int((segments == 0).sum()))


def _kind(batch: Batch, row: int, slot: int, form: Form) -> str:
    if form == "pairs":
        return f"pair {slot // 2 + 1}, {('chosen', 'rejected')[slot % 2]}"
    return "" if form == "answers" else ("unwanted", "wanted")[int(batch["desired"][row, slot])]


def _examples(batch: Batch, row: int, segments: np.ndarray) -> Iterator[Example]:
    for segment in range(1, int(segments.max()) + 1):
        places = np.flatnonzero(segments == segment)
        # The weight at t is of its target, the token at t + 1.
        learnt = np.concatenate([[False], batch["weights"][row, places[:-1]] > 0])
        yield Example(batch["tokens"][row, places], learnt)


def _text(ids: np.ndarray, start: int, stop: int, tokenizer: Tokenizer) -> str:
    # A piece decoded alone would lose the space before its first word.
    before, whole = (_decode(ids[:end], tokenizer) for end in (start, stop))
    return whole[len(before) :] if whole.startswith(before) else _decode(ids[start:stop], tokenizer)


def _decode(ids: Sequence[int] | np.ndarray, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(ids, skip_special=False)  # type: ignore[arg-type]
