"""Many sequences decoded at once: each enters and leaves when it likes, and every step gives all of them their next token."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.decode import layer, sampling
from alpaca_jax.decode.layer import Cache
from alpaca_jax.decode.weights import Params, Weights, prepare
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.norm import rms_norm

# A prompt is read in pieces of these lengths. On a CPU 32 tokens already fill the products; an accelerator wants more.
PIECES = (256, 32)
SHARED = 8  # a shorter common beginning isn't worth the copy
TOP = 20  # likeliest tokens reported where any are asked for


@dataclass(frozen=True)
class Options:
    """How one sequence is continued; the result depends on them and its prompt, not on what else is being decoded."""

    max_new_tokens: int
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    top_logprobs: int = 0  # at most TOP


class Token(NamedTuple):
    """One generated token, its natural log-probability, and the likeliest tokens in its place with theirs."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Generation:
    """A sequence in the engine: `tokens` grows (a stop id is not among them) until `finish_reason` is "stop" or "length"."""

    prompt: list[int]
    options: Options
    tokens: list[Token] = field(default_factory=list)
    finish_reason: str | None = None
    filled: bool = False  # the cache holds every token but the last

    @property
    def ids(self) -> list[int]:
        """The prompt and what was generated."""
        return self.prompt + [token.id for token in self.tokens]


class Completion(NamedTuple):
    """What `Engine.generate` returns for one prompt: new ids without the stop id, their log-probabilities, "stop" or "length"."""

    ids: list[int]
    logprobs: list[float]
    finish_reason: str


class Engine:
    """Decodes up to `slots` sequences of up to `max_length` tokens at once. One thread uses it at a time.

    The cache has as many rows and positions as its sequences need, rounded up to a few sizes: short and few sequences are fast.
    """

    def __init__(
        self, architecture: Architecture, params: Params, slots: int = 8, max_length: int | None = None, dtype: Any = None, stride: int = 1
    ) -> None:
        assert slots >= 1, slots
        self.architecture = architecture
        self.slots = slots
        self.max_length = min(max_length or architecture.max_positions, architecture.max_positions)
        self.stride = stride  # steps between two looks at the tokens: more than 1 keeps an accelerator busy
        self._weights: Weights = prepare(architecture, params, dtype)
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
        if row != last and self._live[last].filled:
            self._caches = [_put(cache, _take(cache, last), row) for cache in self._caches]
        self._live[row] = self._live[last]
        self._live.pop()

    def step(self) -> list[Generation]:
        """Gives each admitted sequence its next tokens (`stride` of them) and returns these sequences; finished ones have left."""
        if not self._live:
            return []
        self._fit()
        for row, generation in enumerate(self._live):
            if not generation.filled:
                self._prefill(row, generation)
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
        rows = min(_up(len(self._live), 1), self.slots)
        # A piece of a prompt may reach beyond its end; XLA would move a write that reaches beyond the cache.
        ahead = (self.stride if generation.filled else max(self.stride, PIECES[-1]) for generation in self._live)
        length = max(len(one.prompt) + len(one.tokens) + more for one, more in zip(self._live, ahead, strict=True))
        length = _up(length, 128, halves=True)
        rows = rows if rows > self._rows or 2 * rows <= self._rows else self._rows
        length = length if length > self._length or 2 * length <= self._length else self._length
        if (rows, length) == (self._rows, self._length):
            return
        a, dtype = self.architecture, self._weights.embed_VD.dtype
        if not self._caches:
            zeros = lambda: jnp.zeros((rows, a.num_kv_heads, length, a.head_dim), dtype)  # noqa: E731
            self._caches = [Cache(zeros(), zeros()) for _ in self._weights.layers]
        for index, cache in enumerate(self._caches):
            self._caches[index] = _resize(cache, rows, length)
        self._rows, self._length = rows, length

    def _prefill(self, row: int, generation: Generation) -> None:
        """Fills the row with all tokens but the last, starting from another sequence's row where both begin alike."""
        tokens = np.asarray(generation.prompt[:-1], np.int32)
        others = [(_common(tokens, other.ids[:-1]), index) for index, other in enumerate(self._live) if other.filled]
        done, source = max(others, default=(0, row))
        if done < SHARED:
            done, source = 0, row
        rows = [_take(cache, source) for cache in self._caches]
        for start, piece in _pieces(done, len(tokens)):
            ids = np.zeros(piece, np.int32)
            ids[: len(tokens) - start] = tokens[start : start + piece]
            x_TD = _embed(self._weights.embed_VD, ids)
            for index, weights in enumerate(self._weights.layers):
                rows[index], x_TD = layer.prefill(self.architecture, weights, rows[index], x_TD, start)
        self._caches = [_put(cache, own, row) for cache, own in zip(self._caches, rows, strict=True)]
        generation.filled = True

    def _decode(self) -> list["Chosen"]:
        """`stride` steps of all rows; the tokens stay on the device until the last."""
        last = np.zeros(self._rows, np.int32)
        positions = np.zeros(self._rows, np.int32)
        for row, generation in enumerate(self._live):
            last[row] = generation.tokens[-1].id if generation.tokens else generation.prompt[-1]
            positions[row] = len(generation.prompt) + len(generation.tokens) - 1
        options = [generation.options for generation in self._live]
        top = TOP if any(one.top_logprobs for one in options) else 0
        pad = self._rows - len(options)
        temperature = np.array([one.temperature for one in options] + [0.0] * pad, np.float32)
        top_p = np.array([one.top_p for one in options] + [1.0] * pad, np.float32)
        seed = np.array([one.seed % 2**32 for one in options] + [0] * pad, np.uint32)
        ids: Any = last
        steps = []
        for ahead in range(self.stride):
            at = positions + ahead
            x_RD = _embed(self._weights.embed_VD, ids)
            for index, weights in enumerate(self._weights.layers):
                self._caches[index], x_RD = layer.decode(self.architecture, weights, self._caches[index], x_RD, at)
            draw = sampling.Draw(temperature, top_p, seed, at)
            steps.append(_choose(self.architecture.norm_eps, top, self._weights.norm, self._weights.head_VD, x_RD, draw))
            ids = steps[-1].ids_R
        return jax.device_get(steps)

    def _extend(self, generation: Generation, chosen: "Chosen", row: int) -> None:
        options, new = generation.options, int(chosen.ids_R[row])
        if new in options.stop_ids:
            generation.finish_reason = "stop"
            return
        top = zip(chosen.top_ids_RP[row, : options.top_logprobs].tolist(), chosen.top_logprobs_RP[row].tolist(), strict=False)
        generation.tokens.append(Token(new, float(chosen.logprobs_R[row]), tuple(top)))
        if len(generation.tokens) >= options.max_new_tokens or len(generation.prompt) + len(generation.tokens) >= self.max_length:
            generation.finish_reason = "length"


class Chosen(NamedTuple):
    """The tokens of one step, and the likeliest ones in their place (P = 0 where nobody asked)."""

    ids_R: Any
    logprobs_R: Any
    top_ids_RP: Any
    top_logprobs_RP: Any


@jax.jit
def _embed(embed_VD: jax.Array, ids_T: jax.Array) -> jax.Array:
    return embed_VD[ids_T]


@partial(jax.jit, static_argnums=(0, 1))
def _choose(eps: float, top: int, norm: jax.Array, head_VD: jax.Array, x_RD: jax.Array, draw: sampling.Draw) -> Chosen:
    logits_RV = layer.project(head_VD, rms_norm(x_RD, norm, eps)).astype(jnp.float32)
    ids_R = sampling.sample(logits_RV, draw)
    top = min(top, logits_RV.shape[1])
    top_RP, top_ids_RP = jax.lax.top_k(logits_RV, top)
    total_R1 = jax.nn.logsumexp(logits_RV, axis=-1, keepdims=True)
    return Chosen(ids_R, sampling.log_probabilities(logits_RV, ids_R), top_ids_RP, top_RP - total_R1)


@jax.jit
def _take(cache: Cache, row: int) -> Cache:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, row, 1), cache)


@partial(jax.jit, donate_argnums=0)
def _put(cache: Cache, own: Cache, row: int) -> Cache:
    return jax.tree.map(lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, new, row, axis=0), cache, own)


@partial(jax.jit, static_argnums=(1, 2))
def _resize(cache: Cache, rows: int, length: int) -> Cache:
    def resize(leaf_RNSK: jax.Array) -> jax.Array:
        kept = leaf_RNSK[:rows, :, :length]
        return jnp.pad(kept, ((0, rows - kept.shape[0]), (0, 0), (0, length - kept.shape[2]), (0, 0)))

    return jax.tree.map(resize, cache)


def _up(need: int, least: int, halves: bool = False) -> int:
    """`need` rounded up to a power of two times `least`, or (`halves`) to one and a half of one: few shapes, little waste."""
    for power in itertools.count():
        if need <= least << power:
            return least << power
        if halves and 2 * need <= 3 * (least << power):
            return 3 * (least << power) // 2
    raise AssertionError


def _pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The beginning and length of each piece of the tokens from `start` to `stop`; only the last may reach beyond."""
    while start < stop:
        piece = next((size for size in PIECES if size <= stop - start), PIECES[-1])
        yield start, piece
        start += piece


def _common(tokens: np.ndarray, others: list[int]) -> int:
    """How many tokens both begin with."""
    size = min(len(tokens), len(others))
    differs = tokens[:size] != np.asarray(others[:size], np.int32)
    return int(np.argmax(differs)) if differs.any() else size
