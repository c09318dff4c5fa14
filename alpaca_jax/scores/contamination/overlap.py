"""What training records have in common with the prompts of an evaluation."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from alpaca_jax.records import Record
from alpaca_jax.scores.contamination.grams import Grams
from alpaca_jax.scores.contamination.nearest import Nearest
from alpaca_jax.scores.contamination.words import asked, words

LONG, SHORT = 13, 8  # words: GPT-3's measure of contamination, and a stricter one
AT_ONCE = 20_000  # records held in memory


@dataclasses.dataclass(frozen=True)
class Item:
    """A prompt, or an item of a suite: the set it belongs to, its id and what the model is asked."""

    set: str
    id: str
    text: str


@dataclasses.dataclass(frozen=True)
class Touch:
    """What records have in common with one item: how many ask the same, share 13 or 8 words in a row with it, and the highest ROUGE-L.

    `record` is the one that has most in common with it: one that is equal, else one that shares most runs of words, else the nearest.
    """

    item: Item
    equal: int
    gram13: int
    gram8: int
    rouge_l: float
    record: Record | None

    @property
    def rank(self) -> tuple[float, ...]:
        """Higher is worse."""
        return (self.equal, self.gram13, self.gram8, self.rouge_l)


def find(records: Iterable[Record], items: Sequence[Item]) -> tuple[list[Touch], int]:
    """Returns the Touch of each item, in order, and the number of records.

    Words are runs of letters and digits in lower case. Equal is a record whose instruction and input have the same words in the same order
    as the item's text. A run of 13 or 8 words counts wherever it stands in the record: in the instruction, the input or the answer. ROUGE-L
    is the F1 of the longest common subsequence of the item's words and those of instruction and input.
    """
    search = _Search(items)
    records = iter(records)
    count = 0
    while chunk := list(itertools.islice(records, AT_ONCE)):
        search.add(chunk, count)
        count += len(chunk)
    return search.result(), count


class _Search:
    """The items, and what was found of them."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._vocabulary: dict[str, int] = {}
        texts = [[self._vocabulary.setdefault(word, len(self._vocabulary) + 1) for word in words(item.text)] for item in items]
        self._short, self._long = Grams(texts, SHORT), Grams(texts, LONG)
        self._nearest = Nearest(texts)
        self._equal_texts = defaultdict[tuple[int, ...], list[int]](list)
        for number, ids in enumerate(texts):
            if ids:
                self._equal_texts[tuple(ids)].append(number)
        self._equal, self._gram8, self._gram13 = (np.zeros(len(items), int) for _ in range(3))
        self._kept: dict[int, tuple[tuple[int, ...], Record]] = {}  # the worst record of an item, and how bad it is
        self._near: dict[int, Record] = {}

    def add(self, records: Sequence[Record], first: int) -> None:
        """Looks through records, the first of which has this number."""
        told, lengths, all_ids = [], [], []
        for record in records:
            ids = [self._vocabulary.get(word, 0) for word in words(asked(record))]
            told.append(ids)
            lengths.append(len(ids))
            all_ids.append(self._whole(record, ids))
            for number in self._equal_texts.get(tuple(ids), ()) if 0 not in ids else ():
                self._equal[number] += 1
                self._keep(number, (1, 0, 0), record)
        self._share(records, all_ids)
        self._nearest.add(told, lengths, first)
        for place in np.flatnonzero(self._nearest.record >= first).tolist():
            self._near[place] = records[int(self._nearest.record[place]) - first]

    def _whole(self, record: Record, ids: list[int]) -> list[int]:
        """The words of all texts; those of the user's are known already."""
        if not record.instruction:
            return ids
        rest = "\n".join([record.output, *(answer for _, answer in record.turns)])
        before = [self._vocabulary.get(word, 0) for word in words(record.system)] if record.system else []
        return [*before, *ids, *(self._vocabulary.get(word, 0) for word in words(rest))]

    def _share(self, records: Sequence[Record], texts: Sequence[Sequence[int]]) -> None:
        """Counts the records that share runs of words, each once for an item."""
        ends = np.cumsum([len(ids) + 1 for ids in texts])  # a 0 after each, which no run goes across
        flat = np.fromiter(itertools.chain.from_iterable((*ids, 0) for ids in texts), np.int64, int(ends[-1]))
        runs = defaultdict[tuple[int, int], list[int]](lambda: [0, 0])
        for which, grams in enumerate((self._short, self._long)):
            for place, numbers in grams.shared(flat):
                record = int(np.searchsorted(ends, place, side="right"))
                for number in numbers:
                    runs[record, number][which] += 1
        for (record, number), (short, long) in sorted(runs.items()):
            self._gram8[number] += short > 0
            self._gram13[number] += long > 0
            self._keep(number, (0, long, short), records[record])

    def _keep(self, number: int, how: tuple[int, ...], record: Record) -> None:
        if number not in self._kept or how > self._kept[number][0]:
            self._kept[number] = (how, record)

    def result(self) -> list[Touch]:
        """What was found of each item."""
        found = zip(self._items, self._equal, self._gram13, self._gram8, self._nearest.best, strict=True)
        return [
            Touch(item, int(equal), int(long), int(short), round(float(rouge), 6), self._worst(number))
            for number, (item, equal, long, short, rouge) in enumerate(found)
        ]

    def _worst(self, number: int) -> Record | None:
        return self._kept[number][1] if number in self._kept else self._near.get(number)
