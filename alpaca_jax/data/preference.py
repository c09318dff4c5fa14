"""Tokenization of preferences: pairs of a chosen and a rejected answer, and answers that are marked as wanted or not."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alpaca_jax.data import example
from alpaca_jax.data.config import Form
from alpaca_jax.data.example import Example, Group, Item, Recipe
from alpaca_jax.records import Record

LACKS = {"pairs": "has a rejected answer", "labelled": "has a rejected answer, or a mark"}
UNUSED = {
    "unwanted": "are marked as unwanted, and not learnt",
    "equal": "are pairs of equal answers, if only up to data.max_length",
    "without": "have no rejected answer or mark",
}


def stream(records: Iterable[Record], recipe: Recipe, counted: Counter[str], form: Form) -> Iterator[Item]:
    """Yields what `form` makes of the records; adds to `counted`, whose keys are the fields of Counts.

    answers: `example.stream`; of a pair the chosen answer, and no unwanted one. pairs: a Group of the chosen and the rejected answer of a
    record that has both. labelled: an Example of each marked answer, and of both of a pair, with the fact `desired`, 1 or 0.
    Of a conversation only the last answer is learnt in the latter two, and all their examples have the fact `real`, 1: that there is one.
    """
    if form == "answers":
        yield from example.stream(records, recipe, counted)
    elif form == "pairs":
        yield from _pairs(records, recipe, counted)
    else:
        yield from _labelled(records, recipe, counted)


def following(counted: Mapping[str, int], number: int) -> Form:
    """Returns the form that fits most of `number` records, of which `counted` counts the pairs and the marked ones."""
    pairs, marked = counted.get("pairs", 0), counted.get("wanted", 0) + counted.get("unwanted", 0)
    if 2 * max(pairs, marked) <= number:
        return "answers"
    return "pairs" if pairs >= marked else "labelled"


def _pairs(records: Iterable[Record], recipe: Recipe, counted: Counter[str]) -> Iterator[Group]:
    tokenized = example.joined(_sides(records, counted), recipe)
    for (_, *chosen), (_, *rejected) in zip(tokenized, tokenized, strict=True):
        parts = _kept([chosen, rejected], [{}, {}], recipe, counted)
        if parts and np.array_equal(parts[0].ids, parts[1].ids):
            counted["equal"] += 1
        elif parts:
            _count(parts, counted)
            yield Group(parts)


def _labelled(records: Iterable[Record], recipe: Recipe, counted: Counter[str]) -> Iterator[Example]:
    for record, *tokenized in example.joined(_marked(records, counted), recipe):
        parts = _kept([tokenized], [{"desired": float(bool(record.desired))}], recipe, counted)
        _count(parts, counted)
        yield from parts


def _sides(records: Iterable[Record], counted: Counter[str]) -> Iterator[Record]:
    """The two answers of each pair, one after the other, as records that learn them."""
    for record in records:
        counted["records"] += 1
        if record.rejected is None:
            counted["without"] += 1
        elif record.rejected == record.answer:
            counted["equal"] += 1
        else:
            counted["empty_output"] += not (record.answer.strip() and record.rejected.strip())
            yield from (record.answering(record.answer), record.answering(record.rejected))


def _marked(records: Iterable[Record], counted: Counter[str]) -> Iterator[Record]:
    """Each answer that is marked, or a side of a pair, as a record that learns it."""
    for record in records:
        told = [(record.answer, record.desired)] if record.rejected is None else [(record.answer, True), (record.rejected, False)]
        counted["records"] += len(told)
        if record.rejected is not None and record.rejected == record.answer:
            counted["equal"] += len(told)
        elif told[0][1] is None:
            counted["without"] += 1
        else:
            for answer, desired in told:
                counted["empty_output"] += not answer.strip()
                yield dataclasses.replace(record.answering(answer), desired=desired)


def _kept(
    tokenized: Sequence[Sequence[Any]], facts: Sequence[Mapping[str, float]], recipe: Recipe, counted: Counter[str]
) -> tuple[Example, ...]:
    """The examples of answers that belong together, none where one of them isn't kept; `tokenized`: the ids and targets of each."""
    longest = max(len(ids) for ids, _ in tokenized)
    if any(not targets or targets[0][0] >= recipe.max_length for _, targets in tokenized):
        counted["no_target"] += 1
        return ()
    if longest > recipe.max_length and recipe.truncation == "drop":
        counted["dropped"] += 1
        return ()
    counted["truncated"] += longest > recipe.max_length
    parts = []
    for (ids, targets), own in zip(tokenized, facts, strict=True):
        kept = min(len(ids), recipe.max_length)
        parts.append(Example(ids[:kept], example.learnt(kept, targets), facts={"real": 1.0, **own}))
    return tuple(parts)


def _count(parts: Sequence[Example], counted: Counter[str]) -> None:
    counted["kept"] += bool(parts)
    counted["tokens"] += sum(len(part.ids) for part in parts)
    counted["target_tokens"] += sum(int(part.learnt.sum()) for part in parts)
