"""What a user says about a teacher: where it is, what it costs, how hard it may be pressed."""

import re
from typing import Literal
from urllib.parse import urlsplit

from alpaca_jax.config import configclass


@configclass
class Prices:
    """Dollars per million tokens, and where the figures are from."""

    prompt: float
    completion: float
    source: str

    def __post_init__(self) -> None:
        if self.prompt < 0 or self.completion < 0:
            raise ValueError(f"a price below 0 (prompt {self.prompt}, completion {self.completion} dollars a million tokens)")

    @property
    def any(self) -> bool:
        """Whether an answer costs anything."""
        return self.prompt > 0 or self.completion > 0


@configclass
class TeacherConfig:
    """The `teacher` group. `source` names a model to serve on this machine; else `base_url`, or where that is null the client's default."""

    source: str | None = None
    base_url: str | None = None
    model: str | None = None  # null: the name that our own server gives its model
    key_env: str | None = None  # the environment variable that holds the key; null: no key is sent
    endpoint: Literal["completions", "chat"] = "chat"
    # What the server calls its limit on an answer; OpenAI's newer chat models refuse the first.
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    prices: Prices | None = None  # null: nothing on this machine, else by the model's name
    timeout: float = 300.0  # seconds for one answer
    concurrency: int = 8  # requests in flight
    max_retries: int = 5  # of one request, after 429, 5xx, a timeout or a broken connection
    slots: int = 8  # of our own server: sequences it decodes at once

    def __post_init__(self) -> None:
        # Neither a key pasted into the wrong place nor a password in the address may reach a file or an error.
        if self.key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.key_env):
            raise ValueError(
                "key_env is the NAME of the environment variable that holds the key, as in OPENAI_API_KEY; it got another text"
            )
        if "@" in urlsplit(self.base_url or "").netloc:
            raise ValueError("base_url holds a name or password; leave it out and name the key's environment variable in key_env")
        if self.source is not None and self.base_url is not None:
            raise ValueError("source and base_url are two teachers: set one of them, and the other to null")
        if self.source is None and not self.model:
            raise ValueError("model is missing: give teacher.model=NAME, or a model to serve here with teacher.source=NAME")
        small = {"timeout": self.timeout, "concurrency": self.concurrency, "slots": self.slots}
        for key, value in small.items():
            if value <= 0:
                raise ValueError(f"{key} must be above 0, got {value}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries must be 0 or more, got {self.max_retries}")

    @property
    def is_here(self) -> bool:
        """Whether the teacher runs on this machine, where nobody sends a bill."""
        return self.source is not None or (urlsplit(self.base_url or "").hostname or "") in ("localhost", "127.0.0.1", "::1")
