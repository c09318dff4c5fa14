"""The bill: what was spent, what requests in flight may cost, and the stop before the budget is exceeded."""

import contextlib
import re
import threading
from collections.abc import Iterator

from alpaca_jax.errors import UserError
from alpaca_jax.teacher.config import Prices, TeacherConfig
from alpaca_jax.teacher.protocol import Answer, Request

_READ = "deploybase.ai/articles/openai-pricing (OpenAI's list prices as of March 2026)"
# Dollars per million tokens (prompt, completion).
LIST_PRICES = {
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4o": (2.50, 10.00),
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-5": (1.25, 10.00),
    "gpt-5-mini": (0.25, 2.00),
    "gpt-5-nano": (0.05, 0.40),
    "gpt-5.1": (1.25, 10.00),
    "gpt-5.4": (2.50, 15.00),
}
# A byte-level tokenizer produces at most one token per byte; the chat template adds a few more.
TEMPLATE_TOKENS = 64


class OverBudget(Exception):
    """The next request might exceed the budget; `limit` is "dollars" or "requests"."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"the budget of {limit} is used up")
        self.limit = limit


def prices(teacher: TeacherConfig) -> Prices:
    """The configured prices, zero for a teacher on this machine, or the model's list price; UserError if it is unknown."""
    if teacher.prices is not None:
        return teacher.prices
    if teacher.is_here:
        return Prices(prompt=0.0, completion=0.0, source="runs on this machine")
    model = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", teacher.model or "")
    if model not in LIST_PRICES or teacher.base_url is not None:
        raise UserError(
            f"teacher.prices: the price of {teacher.model!r} is unknown, so a budget could not be kept. Give dollars per million "
            "tokens (0 if free of charge): 'teacher.prices={prompt: 0.5, completion: 1.5, source: where you read it}'"
        )
    prompt, completion = LIST_PRICES[model]
    return Prices(prompt=prompt, completion=completion, source=_READ)


class Bill:
    """Tokens, requests and dollars; thread-safe.

    `dollars` follows from the token counts in the answers. `doubtful` is the most that requests without an answer (a timeout, a broken
    connection, a killed run) may have cost; the budget counts it as spent.
    """

    def __init__(self, prices: Prices, max_dollars: float | None = None, max_requests: int | None = None) -> None:
        self.prices = prices
        self.prompt_tokens = self.completion_tokens = self.requests = 0
        self.dollars = self.doubtful = 0.0
        self._max_dollars, self._max_requests = max_dollars, max_requests
        self._out: list[float] = []  # the most that each request in flight can cost
        self._changed = threading.Condition()

    def worst(self, request: Request) -> float:
        """The most that one attempt of this request can cost, in dollars."""
        prompt = len((request.system + request.prompt).encode()) + TEMPLATE_TOKENS
        return (prompt * self.prices.prompt + request.max_tokens * self.prices.completion) / 1e6

    @contextlib.contextmanager
    def holding(self, worst: float) -> Iterator[None]:
        """Reserves `worst` dollars; waits while requests in flight may turn out cheaper, else raises OverBudget."""
        with self._changed:
            while (limit := self._exceeded(worst)) is not None:
                if not self._out:
                    raise OverBudget(limit)
                self._changed.wait()
            self._out.append(worst)
        try:
            yield
        finally:
            with self._changed:
                self._out.remove(worst)
                self._changed.notify_all()

    def lose(self, worst: float) -> None:
        """Counts an attempt that got no answer."""
        with self._changed:
            self.doubtful += worst

    def charge(self, request: Request, answer: Answer) -> None:
        """Counts an answer; one without token counts is charged the most it can cost."""
        with self._changed:
            self.requests += 1
            self.prompt_tokens += answer.prompt_tokens or 0
            self.completion_tokens += answer.completion_tokens or 0
            if answer.prompt_tokens is None or answer.completion_tokens is None:
                self.dollars += self.worst(request)
            else:
                self.dollars += (answer.prompt_tokens * self.prices.prompt + answer.completion_tokens * self.prices.completion) / 1e6

    def _exceeded(self, worst: float) -> str | None:
        if self._max_requests is not None and self.requests + len(self._out) >= self._max_requests:
            return "requests"
        if self._max_dollars is not None and self.dollars + self.doubtful + sum(self._out) + worst > self._max_dollars:
            return "dollars"
        return None
