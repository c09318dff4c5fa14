"""The settings of a teacher: where it is, what it costs, and how many requests it gets at once."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Duration, Natural, Nonnegative, Range

AtOnce = Annotated[int, Range(1, 4096, give="1 to 4096")]


@configclass
class Prices:
    """Dollars per million tokens, and where the figures come from."""

    prompt: Nonnegative
    completion: Nonnegative
    source: str
    cached_prompt: Nonnegative | None = None  # of prompt tokens that the server had in its cache; null: the same

    @property
    def any(self) -> bool:
        """Whether an answer costs anything."""
        return self.dearest_prompt > 0 or self.completion > 0

    @property
    def dearest_prompt(self) -> float:
        """The most that prompt tokens cost, cached or not."""
        return max(self.prompt, self.cached_prompt or 0.0)


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
    prices: Prices | None = None  # null: by the model's name; a model that we serve ourselves is free
    free: bool = False  # the endpoint costs nothing; an address on this machine alone doesn't say so, a proxy may listen there
    bills_errors: bool = True  # answers of 408 and 5xx may be billed: the budget counts the most that they may cost
    timeout: Duration = 300.0  # seconds for one answer
    concurrency: AtOnce = 8  # requests in flight
    max_retries: Natural = 5  # of one request, after 429, 5xx, a timeout or a broken connection
    slots: AtOnce = 8  # of our own server: sequences it decodes at once

    def __post_init__(self) -> None:
        # Neither a misplaced key nor a password in the address may reach a file or an error message.
        if self.key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.key_env):
            raise ValueError(
                "key_env takes the NAME of the environment variable that holds the key, as in OPENAI_API_KEY; it got something else"
            )
        if self.base_url is not None and (problem := address_problem(self.base_url)):
            raise ValueError(f"base_url {problem}")
        if self.free and self.prices is not None and self.prices.any:
            raise ValueError("free and prices contradict each other: give one of them")
        if self.source is not None and self.base_url is not None:
            raise ValueError("source and base_url name two teachers: set one of them to null")
        if self.source is None and not self.model:
            raise ValueError("model is missing: give teacher.model=NAME, or teacher.source=NAME to serve a model here")

    @property
    def needs_no_key(self) -> bool:
        """Whether the teacher runs on this machine."""
        return self.source is not None or is_here(self.base_url)


def is_here(url: str | None) -> bool:
    """Whether an address is on this machine."""
    return (urlsplit(url or "").hostname or "") in ("localhost", "127.0.0.1", "::1")


def address_problem(url: str, query: bool = False) -> str | None:
    """What is wrong with the address of an endpoint, without what may be a secret in it; None if nothing.

    A query is refused unless it is allowed, except for the version of an interface: a key in it would be written to files.
    """
    try:
        parts = urlsplit(url)
        scheme, whole = parts.scheme.lower(), bool(parts.hostname) and parts.port != 0
    except ValueError:  # whose text may hold a part of the address
        scheme, parts, whole = "", urlsplit(""), False
    if any(character.isspace() or not character.isprintable() for character in url):
        return "contains a space, a line break or a control character; remove it"
    if scheme not in ("http", "https") or not whole:
        given = f" (it begins with {scheme}://)" if scheme and "://" in url and scheme not in ("http", "https") else ""
        return f"is not the address of an endpoint{given}; give http:// or https://, a host and a path, as in http://127.0.0.1:8000/v1"
    if "@" in parts.netloc:
        return "contains a user name or password; remove it and name the key's environment variable in key_env"
    if parts.fragment or (parts.query and not query and not re.fullmatch(r"api-version=[\w.-]{1,32}", parts.query)):
        return (
            "contains a query (after the ? or #), which may hold a key; remove it and name the key's variable in key_env, or set "
            "base_url=null and give the whole address in the environment variable OPENAI_BASE_URL, which is written nowhere"
        )
    return None
