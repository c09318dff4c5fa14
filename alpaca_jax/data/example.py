"""Tokenization: records become examples, which are token ids and a mask of those that are learnt."""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from alpaca_jax.data.chat import Chat, Piece
from alpaca_jax.data.template import Document, Template
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import WHITE

AT_ONCE = 1024  # records tokenized together, on all cores


@dataclasses.dataclass(frozen=True)
class Example:
    """One example: `ids` int32 [n], and the loss mask `learnt` bool [n], true where the token is a target (never the first).

    `tokens`: further arrays [n, ...], one value for each token, that stand beside it in the batch. `facts`: one number each of the example.
    """

    ids: np.ndarray
    learnt: np.ndarray
    tokens: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def parts(self) -> tuple["Example", ...]:
        """The example itself, as the only part of an item."""
        return (self,)

    @classmethod
    def answering(cls, ids: np.ndarray, prompt_length: int) -> "Example":
        """Returns the example whose first `prompt_length` tokens are context and whose other tokens are learnt."""
        return cls(ids, np.arange(len(ids)) >= max(prompt_length, 1))


@dataclasses.dataclass(frozen=True)
class Group:
    """Examples that belong together, such as the two answers of a pair: they lie next to each other in one row, each a segment."""

    parts: tuple[Example, ...]

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """The tokens of all parts, int32 [n]."""
        return np.concatenate([part.ids for part in self.parts])

    @functools.cached_property
    def learnt(self) -> np.ndarray:
        """The loss masks of all parts, bool [n]."""
        return np.concatenate([part.learnt for part in self.parts])


Item = Example | Group


@dataclasses.dataclass(frozen=True)
class Features:
    """What items have beside ids and mask: the kind and shape of each array in `tokens`, the names of `facts`, the most `parts`."""

    tokens: Mapping[str, tuple[np.dtype, tuple[int, ...]]] = dataclasses.field(default_factory=dict)
    facts: tuple[str, ...] = ()
    parts: int = 1

    @classmethod
    def of(cls, items: Sequence[Item]) -> "Features":
        """Returns the features of the given items together; what one of them lacks is zero there."""
        parts = [part for item in items for part in item.parts]
        tokens = {name: (array.dtype, array.shape[1:]) for part in parts for name, array in part.tokens.items()}
        facts = tuple(dict.fromkeys(name for part in parts for name in part.facts))
        return cls(tokens, facts, max((len(item.parts) for item in items), default=1))

    def __or__(self, other: "Features") -> "Features":
        """Returns the features of both together."""
        facts = tuple(dict.fromkeys((*self.facts, *other.facts)))
        return Features({**self.tokens, **other.tokens}, facts, max(self.parts, other.parts))


class ExampleStore(Protocol):
    """Examples, or groups of them, by number, in memory or on disk."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each item, int [N]."""

    @property
    def features(self) -> Features:
        """What all items of the store have."""

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int]) -> Sequence[Item]:
        """Returns the items of these numbers; may be called from several threads."""
        ...


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples end to end, in memory or memory-mapped: `ids` int32 and `learnt` bool [total tokens], `offsets` int64 [N + 1].

    `facts`: float32 [N] each, one number of every example.
    """

    ids: np.ndarray
    learnt: np.ndarray
    offsets: np.ndarray
    facts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Examples":
        """Returns a store of the given examples; of groups, their parts."""
        examples = [part for item in items for part in item.parts]
        ids = np.concatenate([np.zeros(0, np.int32), *(example.ids for example in examples)]).astype(np.int32)
        offsets = np.cumsum([0, *(len(example.ids) for example in examples)], dtype=np.int64)
        learnt = np.concatenate([np.zeros(0, bool), *(example.learnt for example in examples)])
        names = examples[0].facts if examples else ()
        return cls(ids, learnt, offsets, {name: np.array([each.facts[name] for each in examples], np.float32) for name in names})

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [N]."""
        return np.diff(self.offsets)

    @property
    def features(self) -> Features:
        """The facts of the examples."""
        return Features(facts=tuple(self.facts))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, indices: Sequence[int]) -> list[Example]:
        """Returns the examples of these numbers."""
        places = [(i, slice(self.offsets[i], self.offsets[i + 1])) for i in indices]
        facts = self.facts.items()
        return [Example(self.ids[place], self.learnt[place], facts={name: float(of[i]) for name, of in facts}) for i, place in places]


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Groups of `size` examples each, which follow one another in the store of `examples`."""

    examples: Examples
    size: int

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each group, int64 [N]."""
        return np.diff(self.examples.offsets[:: self.size])

    @property
    def features(self) -> Features:
        """The facts of the examples, and the size of a group."""
        return dataclasses.replace(self.examples.features, parts=self.size)

    def __len__(self) -> int:
        return len(self.examples) // self.size

    def take(self, indices: Sequence[int]) -> list[Group]:
        """Returns the groups of these numbers."""
        parts = self.examples.take([index * self.size + part for index in indices for part in range(self.size)])
        return [Group(tuple(parts[start : start + self.size])) for start in range(0, len(parts), self.size)]


@dataclasses.dataclass(frozen=True)
class Annotated:
    """The items of a store with further facts: float32 [N, parts] each, a number of every part of every item."""

    store: ExampleStore
    facts: Mapping[str, np.ndarray]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each item, int [N]."""
        return self.store.lengths

    @property
    def features(self) -> Features:
        """Those of the store, and the further facts."""
        return self.store.features | Features(facts=tuple(self.facts))

    def __len__(self) -> int:
        return len(self.store)

    def take(self, indices: Sequence[int]) -> list[Item]:
        """Returns the items of these numbers, with the facts."""
        return [self._add(item, index) for item, index in zip(self.store.take(indices), indices, strict=True)]

    def _add(self, item: Item, index: int) -> Item:
        parts = [
            dataclasses.replace(part, facts={**part.facts, **{name: float(of[index, place]) for name, of in self.facts.items()}})
            for place, part in enumerate(item.parts)
        ]
        return Group(tuple(parts)) if isinstance(item, Group) else parts[0]


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of the records. Tokens are those of the kept examples, BOS and EOS included."""

    records: int = 0
    kept: int = 0
    truncated: int = 0  # cut at max_length: kept, but without their EOS
    dropped: int = 0  # longer than max_length, with truncation=drop
    no_target: int = 0  # not kept, because the prompt alone fills max_length, or no answer is learnt
    empty_output: int = 0  # an answer is empty
    tokens: int = 0
    target_tokens: int = 0
    turns: int = 0  # answers of kept conversations after the first, whole or cut
    split: int = 0  # examples of kept documents after the first, with truncation=split
    unwanted: int = 0  # not kept as answers to learn, because they are marked so
    equal: int = 0  # pairs that are not kept, because their sides are equal, if only up to max_length
    without: int = 0  # not kept, because they have no rejected answer, or no mark, where that is asked for


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides which examples a record becomes; of each kind `preference.stream` makes others."""

    template: Template
    tokenizer: Tokenizer
    max_length: int
    truncation: Literal["truncate", "drop", "split"] = "truncate"

    def __post_init__(self) -> None:
        if self.truncation == "split" and not isinstance(self.template, Document):
            raise UserError("data.truncation=split cuts texts for pre-training (data.template=text): give data.truncation=truncate or drop")


def tokenize(records: Iterable[Record], recipe: Recipe) -> tuple[Examples, Counts]:
    """Returns the examples of the records that have at most `max_length` tokens or may be cut to it, in order, and the counts."""
    counted = Counter[str]()
    examples = Examples.of(stream(records, recipe, counted))
    return examples, Counts(**counted)


def stream(records: Iterable[Record], recipe: Recipe, counted: Counter[str]) -> Iterator[Example]:
    """Yields the examples of `tokenize` one by one; adds to `counted`, whose keys are the fields of Counts."""
    for record, ids, answers in joined(_wanted(records, counted), recipe):
        length, kept = len(ids), min(len(ids), recipe.max_length)
        targets = [(start, min(end, kept)) for start, end in answers if start < kept]
        counted["records"] += 1
        counted["empty_output"] += not all((record.output, *(answer for _, answer in record.turns)))
        if not targets:
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
            counted["turns"] += len(targets) - 1
            counted["tokens"] += kept
            counted["target_tokens"] += sum(end - start for start, end in targets)
            yield Example(ids[:kept], learnt(kept, targets))


def _wanted(records: Iterable[Record], counted: Counter[str]) -> Iterator[Record]:
    for record in records:
        if record.desired is False:
            counted["records"] += 1
            counted["unwanted"] += 1
        else:
            yield record


def prompt_ids(template: Template, tokenizer: Tokenizer, instruction: str, input: str = "") -> list[int]:
    """Returns the ids that precede the answer to this instruction in training, BOS included."""
    text, after = template.prompt(instruction, input), _written_bos(template)
    return [*_bos(template, tokenizer), *tokenizer.encode(text, special=template.special, after=after)]


def turn_ids(template: Template, tokenizer: Tokenizer, record: Record) -> list[int]:
    """Returns the ids that precede the last answer of a conversation in training: BOS, and all turns before, answers with their end."""
    pieces = template.pieces(record)
    last = max(number for number, piece in enumerate(pieces) if piece.learnt)
    ids = list(_bos(template, tokenizer))
    for piece, own in zip(pieces[:last], _encoded([pieces[:last]], Recipe(template, tokenizer, 1)), strict=True):
        ids += [*own, template.end_id] if piece.learnt else own
    return ids


def _bos(template: Template, tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.bos_id] if template.bos and tokenizer.bos_id is not None else []


def _written_bos(template: Template) -> str | None:
    """The BOS token where it is part of the text, as in a chat; before a document it is not."""
    return template.bos or None if isinstance(template, Chat) else None


def learnt(length: int, answers: Iterable[tuple[int, int]]) -> np.ndarray:
    """Returns the loss mask, bool [length], that is true in each (start, end) of `answers`."""
    mask = np.zeros(length, bool)
    for start, end in answers:
        mask[start:end] = True
    return mask


def _split(ids: np.ndarray, length: int) -> list[Example]:
    """Parts of at most `length` tokens; each begins with the last token of the one before, so that every token is a target once."""
    return [Example.answering(ids[start : start + length], 1) for start in range(0, len(ids) - 1, length - 1)]


def joined(records: Iterable[Record], recipe: Recipe) -> Iterator[tuple[Record, np.ndarray, list[tuple[int, int]]]]:
    """Yields each record with its ids and the (start, end) of each answer that is learnt, including the token that ends it."""
    # Prompt and answer are tokenized separately, then concatenated. As one string, the prompt's last ":" merges with the first character of
    # 3.3% of the Alpaca responses, and a mask of the prompt's length then hides their first target. Generation sees separate ids, too.
    template, tokenizer = recipe.template, recipe.tokenizer
    records, bos = iter(records), _bos(template, tokenizer)
    while chunk := list(itertools.islice(records, AT_ONCE)):
        if isinstance(template, Chat) and template.tracked:
            yield from (_generated(record, template, tokenizer) for record in chunk)
            continue
        pieces = [template.pieces(record) for record in chunk]
        encoded = _encoded(pieces, recipe)
        for record, parts in zip(chunk, pieces, strict=True):
            ids, answers = list(bos), []
            for piece in parts:
                start = max(len(ids), 1)  # nothing predicts the first token
                ids += next(encoded)
                if piece.learnt:
                    ids.append(template.end_id)
                    answers.append((start, len(ids)))
            yield record, np.array(ids, np.int32), [answer for number, answer in enumerate(answers) if number not in record.shown]


def _generated(record: Record, template: Chat, tokenizer: Tokenizer) -> tuple[Record, np.ndarray, list[tuple[int, int]]]:
    """The record as one text, in which the template marks what is learnt: the same ids and mask as in `transformers`."""
    text, spans = template.generated(record)
    ids, answers = tokenizer.encode_spans(text, spans)
    return record, np.array(ids, np.int32), [(max(start, 1), end) for start, end in answers]


def _encoded(records: Sequence[Sequence[Piece]], recipe: Recipe) -> Iterator[list[int]]:
    """The ids of all pieces in order; pieces of one kind are encoded together."""
    template, tokenizer = recipe.template, recipe.tokenizer
    # An answer continues its prompt. A later prompt follows the token that ends an answer, and the first one BOS or nothing.
    end = tokenizer.backend.token(template.end_id)
    takes_space = tokenizer.backend.takes_space(end)
    pieces = []
    for record in records:
        for place, piece in enumerate(record):
            if not piece.learnt:
                pieces.append((piece.text, (True, False, end if place else _written_bos(template))))
            else:
                after = template.token_before(record[place - 1]) if isinstance(template, Chat) else None
                text = piece.text.rstrip(WHITE) if takes_space else piece.text
                pieces.append((text, (place == 0, True, after)))
    encoded = {}
    for kind in {kind for _, kind in pieces}:
        start, learnt, after = kind
        texts = [text for text, each in pieces if each == kind]
        special = template.special_answer if learnt else template.special
        encoded[kind] = iter(tokenizer.encode_batch(texts, start=start, special=special, after=after))
    return (next(encoded[kind]) for _, kind in pieces)
