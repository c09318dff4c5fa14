"""What is asked of a teacher and what comes back."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Literal, Protocol

Note = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One question: the raw text to continue (`completions`) or one user's turn (`chat`)."""

    endpoint: Literal["completions", "chat"]
    prompt: str
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...] = ()
    system: str = ""  # the system message of a chat; empty: the server's own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back; `text` is None where the server said all is well but sent no text that could be read."""

    text: str | None
    finish_reason: str | None
    model: str
    prompt_tokens: int | None  # None: the server didn't say
    completion_tokens: int | None
    seconds: float


class Teacher(Protocol):
    """Anything that answers."""

    def ask(self, request: Request, stop: threading.Event, note: Note | None = None) -> Answer:
        """The answer; Lost when the teacher is gone, UserError when it refuses us, OverBudget when it may not be asked.

        `note` is called with "may_cost" and the most dollars that can be lost before the request is sent, and with "cost_at_most" and
        the dollars that may have been lost when no answer came of it.
        """
        ...
