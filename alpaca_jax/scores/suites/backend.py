"""What a suite asks of a model, whoever answers: how likely given tokens are, and how a prompt goes on."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

Told = Callable[[int], None]  # hears how many requests are done


class Likelihood(NamedTuple):
    """The natural log-probability of a continuation, and whether greedy decoding gives it."""

    logprob: float
    greedy: bool


class Ask(NamedTuple):
    """A prompt to go on with; `stops` end the answer and are no part of it."""

    prompt: list[int]
    max_tokens: int
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Backend(Protocol):
    """A model that answers."""

    max_length: int  # tokens of the longest row

    def likelihoods(self, rows: Sequence[tuple[list[int], int]], told: Told) -> list[Likelihood]:
        """Of the tokens from `start` on, for each (ids, start), 1 <= start < len(ids) <= max_length."""

    def generate(self, asks: Sequence[Ask], told: Told) -> list[str]:
        """The text that follows each prompt."""
