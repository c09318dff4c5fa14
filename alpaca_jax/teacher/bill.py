"""The bill: what was spent, what requests in flight may cost, and the stop before the budget is exceeded."""

import contextlib
import dataclasses
import re
import threading
from collections.abc import Iterator
from typing import Any

from alpaca_jax.errors import UserError
from alpaca_jax.teacher import usage
from alpaca_jax.teacher.address import OPENAI, address, host
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
    """The configured prices, zero for a model that we serve ourselves or `free`, or the model's list price; UserError if unknown.

    An address on this machine says nothing of the price: it may be that of a proxy.
    """
    if teacher.prices is not None:
        return teacher.prices
    if teacher.source is not None:
        return Prices(prompt=0.0, completion=0.0, source="runs on this machine")
    if teacher.free:
        return Prices(prompt=0.0, completion=0.0, source="teacher.free=true")
    if teacher.model not in LIST_PRICES or host(address(teacher)[0]) != host(OPENAI):
        raise UserError(
            f"teacher.prices: the price of {teacher.model!r} is unknown{_beside(teacher)}, so a budget could not be kept. Give dollars per "
            "million tokens, as in 'teacher.prices={prompt: 0.5, completion: 1.5, source: where you read it}', or teacher.free=true if "
            "it costs nothing"
        )
    prompt, completion = LIST_PRICES[teacher.model]
    return Prices(prompt=prompt, completion=completion, source=_READ)


def _beside(teacher: TeacherConfig) -> str:
    """What to say where the model is in the list under another date, or at another address."""
    if teacher.model in LIST_PRICES:
        return " at this address"
    undated = re.sub(r"-\d{4}-?\d{2}-?\d{2}$", "", teacher.model or "")
    return f" (that of {undated!r} may be another)" if undated in LIST_PRICES else ""


class Bill:
    """Tokens, requests and dollars; thread-safe.

    `requests` were sent, whether or not an answer came. `dollars` follows from the token counts in the answers; an answer whose counts
    can't be true costs the most it can, and is counted in `unbelieved`. `doubtful` is the most that requests without an answer (a timeout,
    a broken connection, a killed run) may have cost; the budget counts it as spent.
    """

    def __init__(self, prices: Prices, max_dollars: float | None = None, max_requests: int | None = None) -> None:
        self.prices = prices
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = self.requests = self.unbelieved = 0
        self.dollars = self.doubtful = 0.0
        self._max_dollars, self._max_requests = max_dollars, max_requests
        self._beyond = 0.0  # the most that an answer cost above what its request seemed to cost at most
        self._out: list[float] = []  # the most that each request in flight can cost
        self._changed = threading.Condition()

    @property
    def counts_requests(self) -> bool:
        """Whether a request has to be noted before it is sent, for a run that goes on after this one was killed."""
        return self.prices.any or self._max_requests is not None

    def worst(self, request: Request) -> float:
        """The most that one attempt of this request can cost, in dollars, as far as the answers so far show."""
        prompt = len("".join(request.texts).encode("utf-8", "replace")) + TEMPLATE_TOKENS * (1 + len(request.earlier))
        return (prompt * self.prices.dearest_prompt + request.max_tokens * self.prices.completion) / 1e6 + self._beyond

    def cost(self, request: Request, answer: Answer) -> float:
        """What an answer costs, in dollars: never less than its counts say, nor than the server says."""
        return self._cost(request, answer, usage.problem(request, answer) is None)

    def _cost(self, request: Request, answer: Answer, believed: bool) -> float:
        cached = answer.cached_tokens if self.prices.cached_prompt is not None else 0
        parts = (
            ((answer.prompt_tokens or 0) - cached, self.prices.prompt),
            (cached, self.prices.cached_prompt or 0.0),
            (answer.completion_tokens or 0, self.prices.completion),
        )
        dollars = max(sum(tokens * price for tokens, price in parts) / 1e6, answer.dollars)
        return dollars if believed else max(dollars, self.worst(request))

    @contextlib.contextmanager
    def holding(self, worst: float) -> Iterator[None]:
        """Counts a request, and reserves `worst` dollars; waits while requests in flight may turn out cheaper, else raises OverBudget."""
        with self._changed:
            while (limit := self._exceeded(worst)) is not None:
                if not self._out:
                    raise OverBudget(limit)
                self._changed.wait()
            self._out.append(worst)
            self.requests += 1
        try:
            yield
        finally:
            with self._changed:
                self._out.remove(worst)
                self._changed.notify_all()

    def count(self, requests: int) -> None:
        """Counts requests that nothing is reserved for, those of a log; -1 for one that never left this machine."""
        with self._changed:
            self.requests += requests

    def lose(self, worst: float) -> None:
        """Counts what an attempt without an answer may have cost."""
        with self._changed:
            self.doubtful += worst

    def charge(self, request: Request, answer: Answer) -> str | None:
        """Charges an answer; returns why its token counts can't be true, or None."""
        problem = usage.problem(request, answer)
        with self._changed:
            dollars = self._cost(request, answer, problem is None)
            self._beyond += max(0.0, dollars - self.worst(request))
            self.dollars += dollars
            self.unbelieved += problem is not None
            self.prompt_tokens += answer.prompt_tokens or 0
            self.cached_tokens += answer.cached_tokens
            self.completion_tokens += answer.completion_tokens or 0
        return problem

    def figures(self) -> dict[str, Any]:
        """What was spent, with the prices, as JSON."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "dollars": round(self.dollars, 6),
            "doubtful_dollars": round(self.doubtful, 6),
            "unbelieved_answers": self.unbelieved,
            "prices": {name: value for name, value in dataclasses.asdict(self.prices).items() if value is not None},
        }

    def _exceeded(self, worst: float) -> str | None:
        if self._max_requests is not None and self.requests >= self._max_requests:
            return "requests"
        if self._max_dollars is not None and self.dollars + self.doubtful + sum(self._out) + worst > self._max_dollars:
            return "dollars"
        return None
