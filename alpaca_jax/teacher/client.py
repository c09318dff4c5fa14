"""Any OpenAI-compatible endpoint through the official client, with visible and bounded retries."""

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import openai

from alpaca_jax.errors import Lost, UserError
from alpaca_jax.teacher.bill import Bill
from alpaca_jax.teacher.config import TeacherConfig
from alpaca_jax.teacher.protocol import Answer, Note, Request

MAX_WAIT = 60.0  # seconds before another attempt; a server that asks for more counts as lost


def key(teacher: TeacherConfig) -> str | None:
    """The key from the environment, None if none is sent; UserError names a missing variable."""
    if teacher.key_env is None:
        if teacher.is_here:
            return None
        raise UserError("teacher.key_env: a hosted teacher needs a key; name the environment variable that holds it, as in OPENAI_API_KEY.")
    value = os.environ.get(teacher.key_env, "").strip()
    if not value:
        raise UserError(
            f"teacher.key_env: the environment variable {teacher.key_env} is not set. Set it: export {teacher.key_env}=YOUR_KEY"
        )
    return value


class Client:
    """A teacher behind an OpenAI-compatible endpoint; charges `bill`, and reports each wait to `notice`."""

    def __init__(
        self, teacher: TeacherConfig, base_url: str | None, model: str, bill: Bill, notice: Callable[[str], None], first_wait: float = 1.0
    ) -> None:
        self._teacher, self._model, self._bill, self._notice, self._first_wait = teacher, model, bill, notice, first_wait
        self._key = key(teacher)
        # The library needs some key even if the server needs none. max_retries=0: its own retries would be silent.
        self._openai = openai.OpenAI(api_key=self._key or "none", base_url=base_url, timeout=teacher.timeout, max_retries=0)

    def __repr__(self) -> str:
        return f"Client({self._model!r} at {self._openai.base_url})"

    def ask(self, request: Request, stop: threading.Event, note: Note | None = None) -> Answer:
        """The answer to `request`; retries transient errors until `max_retries` or `stop`, then raises Lost."""
        note = note or (lambda kind, dollars: None)
        worst = self._bill.worst(request)
        for attempt in range(1, self._teacher.max_retries + 2):
            with self._bill.holding(worst):
                if stop.is_set():
                    raise Lost("stopped")
                note("may_cost", worst)
                try:
                    answer = self._once(request)
                    self._bill.charge(request, answer)
                    return answer
                except openai.APIError as error:
                    lost = worst if _may_be_billed(error) else 0.0
                    note("cost_at_most", lost)
                    self._bill.lose(lost)
                    problem, wait = self._passing(error)
            if stop.is_set():
                raise Lost("stopped")
            if attempt > self._teacher.max_retries or wait > MAX_WAIT:
                break
            wait = max(wait, min(MAX_WAIT, self._first_wait * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0))
            self._notice(f"teacher: {problem}; attempt {attempt + 1} in {wait:.1f} s")
            stop.wait(wait)
        raise Lost(
            f"the teacher at {self._openai.base_url} is lost after {attempt} attempts of one request (last: {problem}). "
            f"All answers so far are kept: run the same command again when it is back."
        )

    def _passing(self, error: openai.APIError) -> tuple[str, float]:
        """For a transient error, what happened and how many seconds the server asks to wait; raises UserError for any other."""
        if isinstance(error, openai.APITimeoutError):
            return f"no answer within {self._teacher.timeout:g} s", 0.0
        if isinstance(error, openai.APIConnectionError):
            return f"the connection failed ({type(error.__cause__).__name__})", 0.0
        if isinstance(error, openai.APIStatusError):
            passes = isinstance(error, (openai.RateLimitError, openai.InternalServerError)) and error.code != "insufficient_quota"
            if not passes:
                raise self._refused(error) from None
            wait = _retry_after(error)
            return f"it answered {error.status_code}" + (f" and asks to wait {wait:g} s" if wait else ""), wait
        raise error

    def _once(self, request: Request) -> Answer:
        settings: dict[str, Any] = {"model": self._model, "temperature": request.temperature, "seed": request.seed}
        settings[self._teacher.limit if request.endpoint == "chat" else "max_tokens"] = request.max_tokens
        # Omitted at their defaults: some models refuse these parameters whatever their value.
        if request.top_p != 1.0:
            settings["top_p"] = request.top_p
        if request.stop:
            settings["stop"] = list(request.stop)
        start = time.monotonic()
        try:
            if request.endpoint == "chat":
                system = [{"role": "system", "content": request.system}] if request.system else []
                messages: Any = [*system, {"role": "user", "content": request.prompt}]
                reply: Any = self._openai.chat.completions.create(messages=messages, **settings)
            else:
                reply = self._openai.completions.create(prompt=request.prompt, **settings)
        except (openai.APIResponseValidationError, ValueError):
            reply = None  # 200, but not JSON
        return _answer(reply, request.endpoint, self._model, time.monotonic() - start)

    def _refused(self, error: openai.APIStatusError) -> UserError:
        """The refusal as a UserError, without the key, which the server's message may contain."""
        where, status = self._openai.base_url, error.status_code
        if status in (401, 403):
            remedy = (
                f"set {self._teacher.key_env} to a valid key" if self._teacher.key_env else "name the key's variable in teacher.key_env"
            )
            return UserError(f"the teacher at {where} answered {status}, it doesn't accept the key: {remedy}.")
        message = str(error.message).replace(self._key, "[key]") if self._key else str(error.message)
        hint = {404: f"Is teacher.model={self._model!r} served there?", 429: "Is the account paid up?"}.get(status, "Correct the request.")
        return UserError(f"the teacher at {where} answered {status}: {message[:500]}. {hint}")


def _may_be_billed(error: openai.APIError) -> bool:
    """Whether the server may bill for a request without an answer: it may have received it, and it did not refuse."""
    if isinstance(error, openai.APITimeoutError):
        return True
    return isinstance(error, openai.APIConnectionError) and type(error.__cause__).__name__ != "ConnectError"


def _retry_after(error: openai.APIStatusError) -> float:
    """How many seconds the server asks to wait; 0 if it doesn't say or gives a date."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def _answer(reply: Any, endpoint: str, model: str, seconds: float) -> Answer:
    """The answer in a reply that may be malformed: a field counts only if it has the right type."""
    choices = getattr(reply, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    text = getattr(getattr(choice, "message", None), "content", None) if endpoint == "chat" else getattr(choice, "text", None)
    usage = getattr(reply, "usage", None)
    tokens = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    prompt_tokens, completion_tokens = (count if isinstance(count, int) else None for count in tokens)
    named, reason = getattr(reply, "model", None), getattr(choice, "finish_reason", None)
    return Answer(
        text=text if isinstance(text, str) else None,
        finish_reason=reason if isinstance(reason, str) else None,
        model=named if isinstance(named, str) else model,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        seconds=round(seconds, 3),
    )
