"""Requests to a teacher, what comes back, and the answers read from it."""

import dataclasses
import threading
from collections.abc import Mapping
from typing import Literal, Protocol

from alpaca_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One request: a raw text to continue (`completions`), or a user's turn (`chat`) after the `earlier` turns."""

    endpoint: Literal["completions", "chat"]
    prompt: str
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...] = ()
    system: str = ""  # the system message of a chat; empty: the server's default
    top_logprobs: int = 0  # the likeliest tokens to tell at each position of the answer, with their log-probabilities
    earlier: tuple[tuple[str, str], ...] = ()  # the turns of a chat before this one: what the user and the assistant said

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the prompt."""
        return (self.system, *(text for turn in self.earlier for text in turn), self.prompt)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server sent with success, byte by byte; only the beginning of one that was too long."""

    body: bytes
    model: str  # that was asked
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer; `text` is None if the server reported success but sent no readable text.

    A count of tokens is None where the server gave none, or something that is no number of tokens.
    """

    text: str | None
    finish_reason: str | None
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    cached_tokens: int = 0  # of the prompt's, those that the server had in its cache
    dollars: float = 0.0  # what the server itself says that it charges
    reasoning: str = ""  # what the model thought before the text, where the server shows it
    top: tuple[Mapping[str, float], ...] = ()  # the log-probabilities of the likeliest tokens, by position; empty where none were given


class Refused(UserError):
    """The teacher understood a request and won't answer it; `status` is the number of its refusal, `said` are its words."""

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status, self.said = status, said


class Entry(Protocol):
    """The place of one answer in a log. What is told here is on disk before the teacher goes on."""

    def may_cost(self, dollars: float) -> None:
        """A request that costs at most this is about to be sent."""
        ...

    def cost_at_most(self, dollars: float) -> None:
        """It got no answer, and may have cost as much as this."""
        ...

    def not_sent(self) -> None:
        """It never left this machine."""
        ...

    def keep(self, reply: Reply) -> None:
        """This came back; nobody has read it yet."""
        ...


class Teacher(Protocol):
    """Anything that answers."""

    def ask(self, request: Request, stop: threading.Event, entry: Entry) -> Answer:
        """The answer, which is in `entry` already; raises Lost if the teacher is gone, Refused if it won't answer, OverBudget if the budget
        forbids the request.
        """
        ...
