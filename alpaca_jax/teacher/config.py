"""The settings of a teacher: where it is, what it costs, and how many requests it gets at once."""

import re
from typing import Literal
from urllib.parse import urlsplit

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Duration, Natural, Nonnegative, Positive


@configclass
class Prices:
    """Dollars per million tokens, and where the figures come from."""

    prompt: Nonnegative
    completion: Nonnegative
    source: str

    @property
    def any(self) -> bool:
        """Whether an answer costs anything."""
        return self.prompt > 0 or self.completion > 0


@configclass
class TeacherConfig:
    """The `teacher` group. `source` names a model to serve on this machine; else `base_url` is asked (null: the client's default)."""

    source: str | None = None
    base_url: str | None = None
    model: str | None = None  # null: the name under which our own server serves its model
    key_env: str | None = None  # the environment variable that holds the key; null: no key is sent
    endpoint: Literal["completions", "chat"] = "chat"
    # The server's name for the token limit of an answer; OpenAI's newer chat models refuse the first.
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    prices: Prices | None = None  # null: zero on this machine, else by the model's name
    timeout: Duration = 300.0  # seconds for one answer
    concurrency: Positive = 8  # requests in flight
    max_retries: Natural = 5  # of one request, after 429, 5xx, a timeout or a broken connection
    slots: Positive = 8  # of our own server: sequences it decodes at once

    def __post_init__(self) -> None:
        # Neither a misplaced key nor a password in the address may reach a file or an error message.
        if self.key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.key_env):
            raise ValueError(
                "key_env takes the NAME of the environment variable that holds the key, as in OPENAI_API_KEY; it got something else"
            )
        if "@" in urlsplit(self.base_url or "").netloc:
            raise ValueError("base_url contains a user name or password; remove it and name the key's environment variable in key_env")
        if self.source is not None and self.base_url is not None:
            raise ValueError("source and base_url name two teachers: set one of them to null")
        if self.source is None and not self.model:
            raise ValueError("model is missing: give teacher.model=NAME, or teacher.source=NAME to serve a model here")

    @property
    def is_here(self) -> bool:
        """Whether the teacher runs on this machine, free of charge."""
        return self.source is not None or (urlsplit(self.base_url or "").hostname or "") in ("localhost", "127.0.0.1", "::1")
