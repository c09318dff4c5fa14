"""One sequence: how it is to be continued, and what has come of it."""

from dataclasses import dataclass, field
from typing import NamedTuple

BASE = 0  # the number of the model without an adapter; adapters count from 1
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
    adapter: int = BASE  # of several that are decoded together; see `weights.with_adapters`


class Token(NamedTuple):
    """One generated token, its natural log-probability, and the likeliest tokens in its place with theirs."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Generation:
    """A sequence in a batch: `tokens` grows (a stop id is not among them) until `finish_reason` is "stop" or "length"."""

    prompt: list[int]
    options: Options
    tokens: list[Token] = field(default_factory=list)
    finish_reason: str | None = None
    stop: Token | None = None  # the stop id that ended it
    cached: int = 0  # tokens whose keys and values are in the cache; in the end all but the last

    @property
    def unread(self) -> list[int]:
        """The tokens of the prompt that are to be put into the cache; the last one is the first that a step decodes."""
        return self.prompt[self.cached : -1]


class Completion(NamedTuple):
    """What `Batch.generate` returns for one prompt: new ids without the stop id, their log-probabilities, "stop" or "length"."""

    ids: list[int]
    logprobs: list[float]
    finish_reason: str
