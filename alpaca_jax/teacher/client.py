"""Any OpenAI-compatible endpoint through the official client, with visible and bounded retries."""

import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from alpaca_jax.errors import Lost, UserError
from alpaca_jax.masking import add_secret
from alpaca_jax.teacher import bounded, reply
from alpaca_jax.teacher.address import address, shown
from alpaca_jax.teacher.bill import Bill
from alpaca_jax.teacher.config import TeacherConfig, is_here
from alpaca_jax.teacher.protocol import Answer, Entry, Refused, Reply, Request

if TYPE_CHECKING:
    import openai  # at run time by whoever asks: it takes a second

MAX_WAIT = 60.0  # seconds before another attempt; a server that asks for more counts as lost
CONNECT_SECONDS = 10.0
# Errors of the HTTP library before a request has left this machine.
UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError", "InvalidURL")
CUSTOM = "OPENAI_CUSTOM_HEADERS"  # a header on each line
HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", CUSTOM)  # variables that the official client sends along


def key(teacher: TeacherConfig) -> str | None:
    """The key from the environment, None if none is sent; UserError names a missing variable, or one that no header can hold."""
    for name in HEADERS:
        for line in os.environ.get(name, "").split("\n" if name == CUSTOM else "\0"):
            _check_header(name, line)
    if teacher.key_env is None:
        if teacher.needs_no_key:
            return None
        raise UserError("teacher.key_env: a hosted teacher needs a key; name the environment variable that holds it, as in OPENAI_API_KEY.")
    add_secret(teacher.key_env)
    value = os.environ.get(teacher.key_env, "").strip()
    if not value:
        raise UserError(
            f"teacher.key_env: the environment variable {teacher.key_env} is not set. Set it: export {teacher.key_env}=YOUR_KEY"
        )
    _check_header(teacher.key_env, value)
    return value


def _check_header(name: str, value: str) -> None:
    if not (value.isascii() and value.isprintable()):
        raise UserError(
            f"the environment variable {name} contains a line break, a control character or a letter outside ASCII, so it is not a whole "
            f"key or two of them. Set it again: export {name}=VALUE"
        )


class Client:
    """A teacher behind an OpenAI-compatible endpoint; charges `bill`, and reports each wait to `notice`."""

    def __init__(
        self, teacher: TeacherConfig, base_url: str | None, model: str, bill: Bill, notice: Callable[[str], None], first_wait: float = 1.0
    ) -> None:
        self._teacher, self._model, self._bill, self._notice, self._first_wait = teacher, model, bill, notice, first_wait
        self._key = key(teacher)
        url, self._where = (base_url, shown(base_url)) if base_url is not None else address(teacher)
        query = dict(parse_qsl(urlsplit(url or "").query))  # the library would put its own path behind it
        self._secrets = [secret for secret in (self._key, *query.values()) if secret]
        self._reached = False  # whether a connection to it was ever made
        self._doubted = False  # whether a usage that can't be true was reported
        import openai

        timeout = openai.Timeout(teacher.timeout, connect=min(CONNECT_SECONDS, teacher.timeout))
        try:
            # The library needs some key even if the server needs none. max_retries=0: its own retries would be silent.
            self._openai = openai.OpenAI(
                api_key=self._key or "none",
                base_url=self._where,
                default_query=query,
                timeout=timeout,
                max_retries=0,
                http_client=bounded.client(teacher.timeout, direct=is_here(url)),
            )
        except Exception as problem:  # whatever is wrong with a proxy, a certificate or a header that it reads from the environment
            where = "Look at HTTP_PROXY, SSL_CERT_FILE and OPENAI_* in the environment."
            raise UserError(f"the client of the teacher at {self._where} can't be made: {problem}. {where}") from None

    def __repr__(self) -> str:
        return f"Client({self._model!r} at {self._where})"

    def ask(self, request: Request, stop: threading.Event, entry: Entry) -> Answer:
        """The answer to `request`; retries transient errors until `max_retries` or `stop`, then raises Lost."""
        import openai

        for attempt in range(1, self._teacher.max_retries + 2):
            worst = self._bill.worst(request)
            with self._bill.holding(worst):
                if stop.is_set():
                    self._bill.count(-1)
                    raise Lost("stopped")
                entry.may_cost(worst)
                try:
                    return self._answered(request, self._once(request), entry)
                except openai.APIError as error:
                    self._lose(error, worst, entry)
                    problem, wait = self._passing(error)
            if stop.is_set():
                raise Lost("stopped")
            if attempt > self._teacher.max_retries or wait > MAX_WAIT or not self._reached:
                break
            wait = max(wait, min(MAX_WAIT, self._first_wait * 2 ** min(attempt - 1, 32)) * random.uniform(0.5, 1.0))
            self._notice(f"teacher: {problem}; attempt {attempt + 1} in {wait:.1f} s")
            stop.wait(wait)
        if not self._reached:
            raise Lost(f"the teacher at {self._where} can't be reached: {problem}. Is it running, and is teacher.base_url its address?")
        raise Lost(
            f"the teacher at {self._where} is lost after {attempt} attempts of one request (last: {problem}). "
            f"All answers so far are kept: run the same command again when it is back."
        )

    def _answered(self, request: Request, received: Reply, entry: Entry) -> Answer:
        """Charges what was received once it is kept, or couldn't be."""
        self._reached = True
        try:
            entry.keep(received)
        finally:
            answer = reply.read(received, request)
            problem = self._bill.charge(request, answer)
        if problem and self._bill.prices.any and not self._doubted:
            self._doubted = True
            self._notice(f"teacher: {problem}; such answers are charged the most that they can cost")
        return answer

    def _lose(self, error: "openai.APIError", worst: float, entry: Entry) -> None:
        """Counts and notes what an attempt without an answer may have cost."""
        if _unsent(error):
            self._bill.count(-1)
            entry.not_sent()
            return
        self._reached = True
        billed = self._bills(error)
        self._bill.lose(worst if billed else 0.0)
        entry.cost_at_most(worst if billed else 0.0)

    def _bills(self, error: "openai.APIError") -> bool:
        """Whether the server may bill for a request that it received and didn't answer."""
        import openai

        if isinstance(error, openai.APIStatusError):
            return self._teacher.bills_errors and (error.status_code >= 500 or error.status_code == 408)
        return True

    def _passing(self, error: "openai.APIError") -> tuple[str, float]:
        """For a transient error, what happened and how many seconds the server asks to wait; raises UserError for any other."""
        import openai

        if isinstance(error, openai.APITimeoutError) or isinstance(error.__cause__, TimeoutError):
            return f"no {'connection' if _unsent(error) else f'answer within {self._teacher.timeout:g} s'}", 0.0
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            return f"the connection failed ({type(cause).__name__}{f': {cause}' if str(cause) else ''})", 0.0
        if isinstance(error, openai.APIStatusError):
            passes = isinstance(error, (openai.RateLimitError, openai.InternalServerError)) and error.code != "insufficient_quota"
            if not passes and error.status_code != 408:
                raise self._refused(error) from None
            wait = _retry_after(error)
            return f"it answered {error.status_code}" + (f" and asks to wait {wait:g} s" if wait else ""), wait
        raise error

    def _once(self, request: Request) -> Reply:
        settings: dict[str, Any] = {"model": self._model, "temperature": request.temperature, "seed": request.seed}
        settings[self._teacher.limit if request.endpoint == "chat" else "max_tokens"] = request.max_tokens
        # Omitted at their defaults: some models refuse these parameters whatever their value.
        if request.top_p != 1.0:
            settings["top_p"] = request.top_p
        if request.stop:
            settings["stop"] = list(request.stop)
        if request.top_logprobs:
            chat = {"logprobs": True, "top_logprobs": request.top_logprobs}
            settings |= chat if request.endpoint == "chat" else {"logprobs": request.top_logprobs}
        start = time.monotonic()
        if request.endpoint == "chat":
            system = [{"role": "system", "content": request.system}] if request.system else []
            said = [*(text for turn in request.earlier for text in turn), request.prompt]
            turns = [{"role": role, "content": text} for role, text in zip(itertools.cycle(("user", "assistant")), said, strict=False)]
            messages: Any = [*system, *turns]
            received = self._openai.chat.completions.with_raw_response.create(messages=messages, **settings)
        else:
            received = self._openai.completions.with_raw_response.create(prompt=request.prompt, **settings)
        return Reply(body=received.content, model=self._model, seconds=round(time.monotonic() - start, 3))

    def _refused(self, error: "openai.APIStatusError") -> Refused:
        """The refusal without the key, which the server's message may contain."""
        status = error.status_code
        if status in (401, 403):
            remedy = (
                f"set {self._teacher.key_env} to a valid key" if self._teacher.key_env else "name the key's variable in teacher.key_env"
            )
            message = f"the teacher at {self._where} answered {status}, it doesn't accept the key: {remedy}."
            return Refused(message, status, "it doesn't accept the key")
        message = str(error.message)
        for secret in self._secrets:
            message = message.replace(secret, "[key]")
        hint = {404: f"Is teacher.model={self._model!r} served there?", 429: "Is the account paid up?"}.get(status, "Correct the request.")
        return Refused(f"the teacher at {self._where} answered {status}: {message[:500]}. {hint}", status, message[:500])


def _unsent(error: "openai.APIError") -> bool:
    """Whether a request never left this machine."""
    import openai

    return isinstance(error, openai.APIConnectionError) and type(error.__cause__).__name__ in UNSENT


def _retry_after(error: "openai.APIStatusError") -> float:
    """How many seconds the server asks to wait; 0 if it doesn't say or gives a date."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
