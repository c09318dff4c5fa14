"""Requests to a teacher and its answers."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Literal, Protocol

Note = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One request: a raw text to continue (`completions`) or a single user turn (`chat`)."""

    endpoint: Literal["completions", "chat"]
    prompt: str
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...] = ()
    system: str = ""  # the system message of a chat; empty: the server's default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer; `text` is None if the server reported success but sent no readable text."""

    text: str | None
    finish_reason: str | None
    model: str
    prompt_tokens: int | None  # None: the server didn't say
    completion_tokens: int | None
    seconds: float


class Teacher(Protocol):
    """Anything that answers."""

    def ask(self, request: Request, stop: threading.Event, note: Note | None = None) -> Answer:
        """The answer; raises Lost if the teacher is gone, UserError if it refuses, OverBudget if the budget forbids the request.

        `note` is called before the request is sent, with "may_cost" and the most it can cost in dollars, and if no answer came, with
        "cost_at_most" and the most it may have cost.
        """
        ...
