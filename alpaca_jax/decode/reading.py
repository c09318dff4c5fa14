"""One row of tokens to be scored: what is asked of it, how far it has been read, and what has come of it."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from alpaca_jax.decode.generation import BASE, Token
from alpaca_jax.decode.program import Judged
from alpaca_jax.errors import UserError


class Scored(NamedTuple):
    """What a model says of the tokens of one row, from where it was asked on."""

    tokens: list[Token]
    greedy: list[bool]  # whether each is the likeliest
    following: Token | None = None  # the likeliest token after the row, if it was asked for

    @property
    def logprobs(self) -> list[float]:
        """The natural log-probability of each token given all before it."""
        return [token.logprob for token in self.tokens]

    @property
    def logprob(self) -> float:
        """The sum of all."""
        return math.fsum(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        """Whether decoding greedily would have given these tokens."""
        return all(self.greedy)


@dataclass(eq=False)
class Reading:
    """A row to be scored: the tokens from `start` on, with `top` alternatives each, and (`beyond`) the one that would follow."""

    ids_T: Int32[np.ndarray, " T"]
    start: int
    top: int = 0
    beyond: bool = False
    adapter: int = BASE
    cached: int = 0  # tokens whose keys and values are in the cache
    tokens: list[Token] = field(default_factory=list)
    greedy: list[bool] = field(default_factory=list)

    @property
    def end(self) -> int:
        """How many tokens are to be read."""
        return len(self.ids_T) if self.beyond else len(self.ids_T) - 1

    @property
    def done(self) -> bool:
        """Has it been read?"""
        return self.cached >= self.end

    @property
    def scored(self) -> Scored:
        """The result, once it is done; a UserError where the model's answer is not a number."""
        if any(not math.isfinite(token.logprob) for token in self.tokens):
            raise UserError("the model's log-probabilities are not numbers: its weights are damaged; download or train it again")
        count = len(self.ids_T) - self.start
        return Scored(self.tokens[:count], self.greedy[:count], self.tokens[count] if self.beyond else None)

    def same(self, other: "Reading") -> int:
        """How many tokens both begin with."""
        least = min(len(self.ids_T), len(other.ids_T))
        (differ,) = np.nonzero(self.ids_T[:least] != other.ids_T[:least])
        return int(differ[0]) if len(differ) else least

    def usable(self, other: "Reading", same: int, cached: int) -> int:
        """How many tokens it needn't read if it begins with the `same` tokens as another that has read `cached`."""
        count = min(same, cached, self.end - 1)
        if count < self.start:
            return count
        # What is said of tokens before the start of the other isn't there, and what follows the last common one is another token.
        return min(count, same - 1) if other.start <= self.start and other.top >= self.top else self.start - 1

    def take_over(self, other: "Reading", count: int) -> None:
        """Goes where the other is after `count` tokens, which both begin with, with what has come of them."""
        self.cached = count
        asked = slice(self.start - other.start, max(count + 1, self.start) - other.start)
        self.tokens = [token._replace(top=token.top[: self.top]) for token in other.tokens[asked]]
        self.greedy = other.greedy[asked]

    def add(self, number: int, judged: Judged, index: int) -> None:
        """Adds the token `number`, of which the model says what `judged` has at `index`; the one behind the last is the likeliest."""
        likely, logprobs = judged.top_ids_QP[index].tolist(), judged.top_logprobs_QP[index].tolist()
        top = tuple(zip(likely[: self.top], logprobs, strict=False))
        if number == len(self.ids_T):
            self.tokens.append(Token(likely[0], logprobs[0], top))
            return
        id = int(self.ids_T[number])
        self.tokens.append(Token(id, float(judged.logprobs_Q[index]), top))
        self.greedy.append(id == likely[0])
