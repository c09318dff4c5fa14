"""Many sequences decoded at once: each enters and leaves when it likes, and every step gives all of them their next token."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from alpaca_jax.decode import sampling
from alpaca_jax.decode.generation import BASE, TOP, Completion, Generation, Options, Token
from alpaca_jax.decode.layer import Cache
from alpaca_jax.decode.program import Chosen, Program
from alpaca_jax.decode.weights import Weights
from alpaca_jax.model import rope

# Prompts are read in pieces of this many (rows, tokens): several short prompts together, or one that is long or alone.
SEVERAL, LONG, SINGLE = (8, 32), (1, 256), (1, 32)
LEAST_LENGTH = 128  # positions of the smallest cache
SHARED = 8  # a shorter common beginning isn't worth the copy


class Batch:
    """Decodes up to `slots` sequences of up to `max_length` tokens at once. One thread uses it at a time.

    The cache has as many rows and positions as its sequences need, rounded up to a few sizes: short and few sequences are fast. In a job of
    several processes all of them make the same calls, and get the same tokens.
    """

    def __init__(self, program: Program, weights: Weights, slots: int = 8, max_length: int | None = None) -> None:
        assert slots >= 1, slots
        self.slots = slots
        self.max_length = min(max_length or program.architecture.max_positions, program.architecture.max_positions)
        self._program, self._weights = program, weights
        self._group = program.group(weights)
        self._live: list[Generation] = []  # row r of the cache belongs to sequence r
        self._rows = self._length = 0
        self._caches: list[Cache] = []

    @property
    def free(self) -> int:
        """How many more sequences may be admitted now."""
        return self.slots - len(self._live)

    def admit(self, prompt: Sequence[int], options: Options) -> Generation:
        """Takes a sequence in; the next `step` reads its prompt. A ValueError where the prompt leaves no room for a token."""
        if not 0 < len(prompt) < self.max_length:
            raise ValueError(f"a prompt of {len(prompt)} tokens: there is room for 1 to {self.max_length - 1}")
        if self.free < 1:
            raise RuntimeError(f"all {self.slots} slots are taken")
        generation = Generation(list(prompt), options)
        self._live.append(generation)
        return generation

    def release(self, generation: Generation) -> None:
        """Takes a sequence out before it is finished; the last row moves into its place."""
        row, last = self._live.index(generation), len(self._live) - 1
        if row != last:
            self._copy(last, row)
        self._live[row] = self._live[last]
        self._live.pop()

    def step(self) -> list[Generation]:
        """Gives each admitted sequence its next tokens (`stride` of them) and returns these sequences; finished ones have left."""
        if not self._live:
            return []
        self._fit()
        while pending := [row for row, generation in enumerate(self._live) if generation.unread]:
            self._prefill(self._independent(pending))
        served = list(self._live)
        for chosen in self._decode():
            for row, generation in enumerate(served):
                if generation.finish_reason is None:
                    self._extend(generation, chosen, row)
        for generation in served:
            if generation.finish_reason is not None:
                self.release(generation)
        return served

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        stop_ids: Sequence[int] = (),
    ) -> list[Completion]:
        """One `Completion` a prompt, in order, however many prompts; `seed` is one for all or one for each."""
        seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
        waiting = [
            (prompt, Options(max_new_tokens, temperature, top_p, own, frozenset(stop_ids)))
            for prompt, own in zip(prompts, seeds, strict=True)
        ]
        admitted: list[Generation] = []
        while len(admitted) < len(waiting) or self._live:
            admitted += [self.admit(*request) for request in waiting[len(admitted) : len(admitted) + self.free]]
            self.step()
        return [
            Completion([token.id for token in one.tokens], [token.logprob for token in one.tokens], one.finish_reason or "length")
            for one in admitted
        ]

    def _fit(self) -> None:
        """Makes the cache as large as the coming step needs, and smaller where it needs half or less."""
        least = self._program.row_multiple
        rows = min(rounded_up(len(self._live), least), _multiple(self.slots, least))
        # A piece of a prompt may reach beyond its end; XLA would move a write that reaches beyond the cache.
        ahead = (
            max(self._program.tuning.stride, SINGLE[1]) if generation.unread else self._program.tuning.stride for generation in self._live
        )
        length = max(len(one.prompt) + len(one.tokens) + more for one, more in zip(self._live, ahead, strict=True))
        length = rounded_up(length, LEAST_LENGTH, halves=True)
        rows = rows if rows > self._rows or 2 * rows <= self._rows else self._rows
        length = length if length > self._length or 2 * length <= self._length else self._length
        if (rows, length) == (self._rows, self._length):
            return
        if not self._caches:
            self._caches = [self._program.empty(rows, length) for _ in range(self._program.architecture.num_layers)]
        for index, cache in enumerate(self._caches if self._rows else ()):  # one at a time: a whole second cache might not fit
            self._caches[index] = self._program.resize(cache, rows, length)
        self._rows, self._length = rows, length

    def _copy(self, source: int, target: int) -> None:
        """Copies a row of the cache."""
        take, put = np.array([source], np.int32), np.array([target], np.int32)
        self._caches = [self._program.put(cache, self._program.take(cache, take), put) for cache in self._caches]

    def _independent(self, pending: list[int]) -> list[int]:
        """Those of the pending rows that have nothing to gain from waiting until another has read what both begin with.

        A row that begins as an earlier reader did takes over what that has in the cache, if prompts of their lengths are rotated alike.
        """
        chosen: list[int] = []
        for row in pending:
            generation = self._live[row]
            others = [(self._shared(generation, other), index) for index, other in enumerate(self._live) if index != row]
            done, source = max(((min(same, self._live[index].cached), index) for same, index in others), default=(0, row))
            if done >= generation.cached + SHARED:
                self._copy(source, row)
                generation.cached = done
            gain = max((same for same, index in others if index in chosen), default=0)
            if generation.unread and gain < generation.cached + SHARED:
                chosen.append(row)
        return chosen

    def _shared(self, one: Generation, other: Generation) -> int:
        """How many tokens of two prompts have the same keys and values."""
        alike = rope.alike(self._program.architecture, len(one.prompt), len(other.prompt))
        return _common(one.prompt, other.prompt) if alike and one.options.adapter == other.options.adapter else 0

    def _prefill(self, chosen: list[int]) -> None:
        """Reads the next piece of the prompts of some of the rows."""
        if not chosen:
            return
        longest = max(len(self._live[row].unread) for row in chosen)
        several, size = SEVERAL if len(chosen) > 2 else LONG if longest >= LONG[1] else SINGLE
        if size == LONG[1]:
            chosen = [row for row in chosen if len(self._live[row].unread) >= size]
        chosen = chosen[:several]
        ids, starts, lengths = np.zeros((several, size), np.int32), np.zeros(several, np.int32), np.ones(several, np.int32)
        take, put = np.zeros(several, np.int32), np.full(several, self._rows, np.int32)  # rows that only fill up are dropped
        take[: len(chosen)] = put[: len(chosen)] = chosen
        for index, row in enumerate(chosen):
            generation = self._live[row]
            piece = generation.unread[:size]
            ids[index, : len(piece)], starts[index] = piece, generation.cached
            generation.cached += len(piece)
            lengths[index] = len(generation.prompt)
        which = np.array([self._live[row].options.adapter for row in take], np.int32) if self._weights.several else None
        x_MD, at = self._program.embed(self._weights.embed_VD, ids, starts, lengths)
        for number, cache in enumerate(self._caches):
            own = self._program.take(cache, take)
            own, x_MD = self._program.prefill(self._weights.group(number, 1), np.int32(number), own, x_MD, starts, at, which)
            self._caches[number] = self._program.put(cache, own, put)

    def _decode(self) -> list[Chosen]:
        """`stride` steps of all rows; the tokens stay on the device until the last."""
        last = np.zeros(self._rows, np.int32)
        positions = np.zeros(self._rows, np.int32)
        for row, generation in enumerate(self._live):
            last[row] = generation.tokens[-1].id if generation.tokens else generation.prompt[-1]
            positions[row] = len(generation.prompt) + len(generation.tokens) - 1
        options = [generation.options for generation in self._live]
        top = TOP if any(one.top_logprobs for one in options) else 0
        drawn = any(one.temperature for one in options)
        pad = self._rows - len(options)
        temperature = np.array([one.temperature for one in options] + [0.0] * pad, np.float32)
        top_p = np.array([one.top_p for one in options] + [1.0] * pad, np.float32)
        seed = np.array([one.seed % 2**32 for one in options] + [0] * pad, np.uint32)
        which = np.array([one.adapter for one in options] + [BASE] * pad, np.int32) if self._weights.several else None
        ids: Any = last
        steps = []
        program, weights = self._program, self._weights
        for ahead in range(program.tuning.stride):
            at = positions + np.int32(ahead)
            x_RD, angles = program.embed(weights.embed_VD, ids[:, None], at)
            for first in range(0, len(self._caches), self._group):
                group, own = slice(first, first + self._group), weights.group(first, self._group)
                self._caches[group], x_RD = program.decode(own, np.int32(first), self._caches[group], x_RD, at, angles, which)
            draw = sampling.Draw(temperature, top_p, seed, at)
            steps.append(program.choose(top, drawn, weights.norm, weights.head_VD, x_RD, draw))
            ids = steps[-1].ids_R
        return jax.device_get(steps)

    def _extend(self, generation: Generation, chosen: Chosen, row: int) -> None:
        options, new = generation.options, int(chosen.ids_R[row])
        if new in options.stop_ids:
            generation.finish_reason, generation.stop = "stop", Token(new, float(chosen.logprobs_R[row]))
            return
        generation.cached = len(generation.prompt) + len(generation.tokens)
        top = zip(chosen.top_ids_RP[row, : options.top_logprobs].tolist(), chosen.top_logprobs_RP[row].tolist(), strict=False)
        generation.tokens.append(Token(new, float(chosen.logprobs_R[row]), tuple(top)))
        if len(generation.tokens) >= options.max_new_tokens or len(generation.prompt) + len(generation.tokens) >= self.max_length:
            generation.finish_reason = "length"


def rounded_up(need: int, least: int, halves: bool = False) -> int:
    """`need` rounded up to a power of two times `least`, or (`halves`) to one and a half of one: few shapes, little waste."""
    for power in itertools.count():
        if need <= least << power:
            return least << power
        if halves and 2 * need <= 3 * (least << power):
            return 3 * (least << power) // 2
    raise AssertionError


def _multiple(need: int, of: int) -> int:
    """`need` rounded up to a multiple."""
    return -(-need // of) * of


def _common(tokens: list[int], others: list[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(tokens, others, strict=False)))
