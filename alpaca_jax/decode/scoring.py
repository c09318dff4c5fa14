"""How likely given tokens are: rows of ids are read in pieces against a cache of their own, and the output layer sees what is asked for.

A row that begins like another, read before or being read, takes over what that has: a context with several continuations is read once.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from alpaca_jax.decode.batch import LEAST_LENGTH, SHARED, rounded_up
from alpaca_jax.decode.generation import BASE, TOP
from alpaca_jax.decode.layer import Cache
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.reading import Reading, Scored
from alpaca_jax.decode.weights import Weights
from alpaca_jax.model import rope

# Rows are read in pieces of this many (rows, tokens): one that is long, several, the ends of many, or little.
PIECES = ((1, 256), (8, 32), (32, 8), (1, 32))
OVERHEAD = 32  # a piece takes about as long as this many more tokens would
MOST_ROWS, PLACES = 32, 4096  # of the cache: rows, and rows times their length
JUDGED = (16, 64)  # tokens whose scores over the vocabulary are in memory at once: for a few, and for many


class Scoring:
    """Scores rows of up to `max_length` tokens. One thread uses it at a time; in a job of several processes all make the same calls.

    The results of a row don't depend on the others, but for the rounding of sums.
    """

    def __init__(self, program: Program, weights: Weights, max_length: int | None = None) -> None:
        self.max_length = min(max_length or program.architecture.max_positions, program.architecture.max_positions)
        self._program, self._weights = program, weights
        self._waiting: deque[Reading] = deque()
        self._caches: list[Cache] = []
        self._length = 0  # of the cache's rows
        self._held: list[Reading | None] = []  # whose tokens are in each row of the cache
        self._going: dict[int, Reading] = {}  # the rows that are being read, oldest first
        self._idle: list[int] = []  # the other rows, longest idle first

    @property
    def busy(self) -> bool:
        """Is there something to read?"""
        return bool(self._waiting or self._going)

    def score(self, rows: Sequence[tuple[Sequence[int], int]], top: int = 0) -> list[Scored]:
        """What the model says of `ids[start:]` for each (ids, start), in order; `top` alternatives for each token.

        A ValueError where a row is too long or has nothing before its start, a UserError where the model's answer is not a number.
        """
        readings = [self.reading(ids, start, top) if start < len(ids) else None for ids, start in rows]
        # Long ones first, so that the cache shrinks a few times only; neighbours have most in common.
        self._waiting += sorted(filter(None, readings), key=lambda each: (-_length(each), each.ids_T.tolist()))
        while self.busy:
            self.step()
        return [Scored([], []) if reading is None else reading.scored for reading in readings]

    def reading(self, ids: Sequence[int], start: int, top: int = 0, beyond: bool = False, adapter: int = BASE) -> Reading:
        """A row for `admit`, with something to score from `start` on or (`beyond`) after its end; a ValueError where it can't be read."""
        if not 1 <= start < len(ids) + beyond or len(ids) > self.max_length:
            asked = f"a row of {len(ids)} tokens, scored from token {start} on"
            raise ValueError(f"{asked}: there is room for {self.max_length}, and one goes before the first that is scored")
        assert top <= TOP, top
        return Reading(np.array(ids, np.int32), start, top, beyond, adapter)

    def admit(self, reading: Reading) -> None:
        """Takes a row in; `step` reads it when its turn comes."""
        self._waiting.append(reading)

    def release(self, reading: Reading) -> None:
        """Takes a row out before it is done."""
        if reading in self._waiting:
            self._waiting.remove(reading)
        for row in [row for row, own in self._going.items() if own is reading]:
            self._leave(row)

    def step(self) -> list[Reading]:
        """Reads a piece of some rows, and returns those that are done now."""
        self._fit()
        self._seat()
        if not self._going:
            return []
        piece, chosen = self._piece()
        self._read(piece, chosen)
        done = {row: reading for row, reading in chosen.items() if reading.done}
        for row in done:
            self._leave(row)
        return list(done.values())

    def _leave(self, row: int) -> None:
        del self._going[row]
        self._idle.append(row)

    def _fit(self) -> None:
        """Makes the cache as long as the next row needs, and shorter where half is enough, when nobody is using it."""
        if self._going or not self._waiting:
            return
        length = _length(self._waiting[0])
        if length <= self._length < 2 * length:
            return
        rows = min(MOST_ROWS, 1 << max(PLACES // length, 1).bit_length() - 1)
        rows = -(-rows // self._program.row_multiple) * self._program.row_multiple
        if not self._caches:
            self._caches = [self._program.empty(rows, length) for _ in range(self._program.architecture.num_layers)]
        for index, cache in enumerate(self._caches if self._length else ()):  # one at a time: a whole second cache might not fit
            self._caches[index] = self._program.resize(cache, rows, length)
        kept = [None if own is None or own.cached > length else own for own in self._held[:rows]]
        self._held = kept + [None] * (rows - len(kept))
        self._idle = sorted(range(rows), key=lambda row: self._held[row] is not None)
        self._length = length

    def _seat(self) -> None:
        """Gives rows of the cache to those that wait, with what others have that begin as they do."""
        copied: dict[int, int] = {}  # which row has what each new one begins with
        later: list[Reading] = []
        while self._waiting and self._idle and len(later) < 3 * len(self._held) and _length(self._waiting[0]) <= self._length:
            reading = self._waiting.popleft()
            others = [(row, other, self._same(reading, other)) for row, other in enumerate(self._held) if other is not None]
            # Of several that help as much the one that has least to lose, should its row be taken.
            helpful = ((reading.usable(other, same, other.cached), -other.cached, row) for row, other, same in others)
            usable, _, source = max(helpful, default=(0, 0, -1))
            soon = max((reading.usable(other, same, other.end) for row, other, same in others if row in self._going), default=0)
            if soon >= usable + SHARED:
                later.append(reading)  # another is about to read that
                continue
            row = self._idle[0]
            if usable >= SHARED:
                other = self._held[source]
                assert other is not None
                reading.take_over(other, usable)
                if source in self._idle:
                    row = source
                else:
                    copied[row] = copied.get(source, source)
            self._idle.remove(row)
            self._held[row] = self._going[row] = reading
        self._waiting.extendleft(reversed(later))
        self._copy(copied)

    def _same(self, one: Reading, other: Reading) -> int:
        """How many tokens of two rows have the same keys and values."""
        alike = rope.alike(self._program.architecture, len(one.ids_T), len(other.ids_T))
        return one.same(other) if alike and one.adapter == other.adapter else 0

    def _copy(self, sources: dict[int, int]) -> None:
        """Copies some rows of the cache, each as it was before."""
        if not sources:
            return
        count = next(rows for rows in (1, 8, len(self._held)) if rows >= len(sources))
        take, put = np.zeros(count, np.int32), np.full(count, len(self._held), np.int32)  # rows that only fill up are dropped
        put[: len(sources)], take[: len(sources)] = list(sources), list(sources.values())
        self._caches = [self._program.put(cache, self._program.take(cache, take), put) for cache in self._caches]

    def _piece(self) -> tuple[tuple[int, int], dict[int, Reading]]:
        """Which rows are read next, and how many tokens of each: as much as can be done in the time."""

        def chosen(rows: int, size: int) -> dict[int, Reading]:
            fit = ((row, own) for row, own in self._going.items() if own.cached + size <= self._length)
            return dict(itertools.islice(fit, rows))

        def worth(piece: tuple[int, int]) -> float:
            useful = sum(min(piece[1], own.end - own.cached) for own in chosen(*piece).values())
            return useful / (piece[0] * piece[1] + OVERHEAD)

        best = max(PIECES, key=worth)
        return best, chosen(*best)

    def _read(self, piece: tuple[int, int], chosen: dict[int, Reading]) -> None:
        """Reads the next tokens of some rows, and adds what comes of them."""
        (rows, size), asked = piece, []
        ids, starts, lengths = np.zeros(piece, np.int32), np.zeros(rows, np.int32), np.ones(rows, np.int32)
        take, put = np.zeros(rows, np.int32), np.full(rows, len(self._held), np.int32)  # rows that only fill up are dropped
        take[: len(chosen)] = put[: len(chosen)] = list(chosen)
        for index, reading in enumerate(chosen.values()):
            read = reading.ids_T[reading.cached : min(reading.cached + size, reading.end)]
            ids[index, : len(read)], starts[index], lengths[index] = read, reading.cached, len(reading.ids_T)
            first, reading.cached = reading.cached, reading.cached + len(read)
            places = range(max(first, reading.start - 1), reading.cached)  # each gives the next token
            asked += [(reading, index * size + place - first, place + 1) for place in places]
        adapters = [reading.adapter for reading in chosen.values()] + [BASE] * (rows - len(chosen))
        which = np.array(adapters, np.int32) if self._weights.several else None
        x_MD, at = self._program.embed(self._weights.embed_VD, ids, starts, lengths)
        for number, cache in enumerate(self._caches):
            own = self._program.take(cache, take)
            own, x_MD = self._program.prefill(self._weights.group(number, 1), np.int32(number), own, x_MD, starts, at, which)
            self._caches[number] = self._program.put(cache, own, put)
        self._judge(asked, x_MD)

    def _judge(self, asked: list[tuple[Reading, int, int]], x_MD: Any) -> None:
        """Adds to each reading what the stream at the place says of its token; a few places at a time have scores in memory."""
        top = TOP if any(reading.top > 1 for reading, *_ in asked) else 1
        size = next((few for few in JUDGED if few >= len(asked)), JUDGED[-1])
        size = -(-size // self._program.row_multiple) * self._program.row_multiple
        judged = []
        for first in range(0, len(asked), size):
            places, given = np.zeros(size, np.int32), np.zeros(size, np.int32)
            for index, (reading, place, number) in enumerate(asked[first : first + size]):
                places[index], given[index] = place, reading.ids_T[number] if number < len(reading.ids_T) else 0
            judged.append(self._program.judge(top, self._weights.norm, self._weights.head_VD, x_MD, places, given))
        found = jax.device_get(judged)
        for index, (reading, _, number) in enumerate(asked):
            reading.add(number, found[index // size], index % size)
        jax.block_until_ready(x_MD)  # a step is over when its work is: others may wait for the device


def _length(reading: Reading) -> int:
    """How long the rows of a cache are that take it: a piece may reach beyond its end."""
    return rounded_up(reading.end + PIECES[-1][1], LEAST_LENGTH, halves=True)
