"""OpenAI's requests, checked, and its errors."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alpaca_jax import documents
from alpaca_jax.decode.generation import BASE, TOP, Options
from alpaca_jax.tokenizer import Tokenizer

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
MAX_BODY_BYTES = 32 * 2**20
MAX_SEQUENCES = 1024  # prompts times n, of one request


class ApiError(Exception):
    """A request that can't be answered, as OpenAI's clients expect to hear of it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class StreamOptions(BaseModel):
    """Whether the last chunk of a stream carries the usage."""

    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool = False


class Body(BaseModel):
    """What a client sends. What a field can't mean here is refused and not ignored: a penalty without effect would be a silent lie."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None

    def check(self) -> None:
        """Raises an ApiError where the request asks for what isn't there."""


class _Request(Body):
    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None  # named by some clients, of no effect by its nature
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def check(self) -> None:
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(self, name):
                raise ApiError(400, f"{name} is not supported: leave it out", name)

    @property
    def stops(self) -> list[str]:
        """The stop strings, without empty ones."""
        return [stop for stop in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if stop]

    @property
    def with_usage(self) -> bool:
        """Does the stream end with a chunk of usage?"""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None
    echo: bool | None = None
    return_tokens_as_token_ids: bool | None = None  # vLLM's: tokens are named "token_id:N" instead of by their texts
    best_of: int | None = None
    suffix: None = None

    def check(self) -> None:
        super().check()
        if self.best_of not in (None, self.n or 1):
            raise ApiError(400, "best_of is not supported beyond n: leave it out", "best_of")
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens=0 leaves nothing to answer with: give at least 1, or echo=true for the prompt", "max_tokens")

    @property
    def given(self) -> list[str | list[int]]:
        """Each prompt as it was given."""
        alone = isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
        return [self.prompt] if alone else self.prompt  # type: ignore[list-item, return-value]

    def prompts(self, tokenizer: Tokenizer) -> list[list[int]]:
        """The ids of each prompt; the text of a special token becomes that token, BOS goes first where the tokenizer wants it."""
        return [text_ids(tokenizer, one) if isinstance(one, str) else list(one) for one in self.given]


class Part(BaseModel):
    """A piece of a message; only text is understood."""

    model_config = ConfigDict(extra="ignore", strict=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: str
    content: str | list[Part]
    tool_calls: Annotated[list[None], Field(max_length=0)] | None = None  # an answer that lies in them can't be shown to the model
    function_call: None = None


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs=true", "top_logprobs")

    def prompt(self, tokenizer: Tokenizer) -> list[int]:
        """The ids of the chat up to the assistant's turn, by the tokenizer's template."""
        return chat_ids(tokenizer, self.messages)


def text_ids(tokenizer: Tokenizer, text: str, bos: bool = True) -> list[int]:
    """The ids of a text with special tokens as such; `bos`: with BOS before it where the tokenizer wants it."""
    start = [tokenizer.bos_id] if bos and tokenizer.adds_bos and tokenizer.bos_id is not None else []
    return start + tokenizer.encode(text, special=True)


def chat_ids(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
    """The ids of a chat by the tokenizer's template; an ApiError where that refuses it."""
    text = lambda content: content if isinstance(content, str) else "".join(part.text for part in content)  # noqa: E731
    try:
        return tokenizer.apply_chat([{"role": one.role, "content": text(one.content)} for one in messages], add_generation_prompt)
    except ValueError as error:
        raise ApiError(400, str(error), "messages") from error


R = TypeVar("R", bound=Body)


def shutting_down() -> ApiError:
    """The error for a request that the server's end leaves unanswered."""
    return ApiError(503, "the server is shutting down: ask again when it is back")


def no_such_model(name: str, served: Sequence[str]) -> ApiError:
    """The error for a model that isn't one of those served."""
    names = ", ".join(map(repr, served))
    return ApiError(404, f"the model {name!r} does not exist; this server has {names}", "model", "model_not_found")


def parse(cls: type[R], body: bytes) -> R:
    """The request in `body`; an ApiError says which field is wrong."""
    try:
        request = cls.model_validate(documents.json_value(body))
    except ValueError as error:
        if not isinstance(error, ValidationError):
            raise ApiError(400, f"the body can't be read: {error}") from error
        problem = error.errors(include_url=False)[0]
        param = str(problem["loc"][0]) if problem["loc"] else None
        unknown = problem["type"] == "extra_forbidden"
        message = "this parameter is not supported" if unknown else problem["msg"]
        raise ApiError(400, f"{'.'.join(map(str, problem['loc'])) or 'body'}: {message}", param) from error
    return request


class Wanted(NamedTuple):
    """One sequence to generate."""

    prompt: list[int]
    options: Options


def wanted(
    request: _Request, prompts: Sequence[list[int]], stop_ids: frozenset[int], vocab_size: int, max_length: int, adapter: int = BASE
) -> list[Wanted]:
    """The n sequences of each prompt, in the order of their choices; an ApiError for a prompt that can't be continued."""
    if len(prompts) * (request.n or 1) > MAX_SEQUENCES:
        raise ApiError(400, f"{len(prompts)} prompts with n={request.n or 1} are more than {MAX_SEQUENCES} answers: ask for fewer", "n")
    only_prompt = isinstance(request, CompletionRequest) and request.max_tokens == 0
    for prompt in prompts or [[]]:
        if not prompt:
            raise ApiError(400, "the prompt has no tokens: give at least one", "prompt")
        if len(prompt) >= max_length + only_prompt:
            message = f"the prompt has {len(prompt)} tokens, but this server's maximum context length is {max_length}, answer included"
            raise ApiError(400, message, "prompt", "context_length_exceeded")
        if not all(0 <= id < vocab_size for id in prompt):
            raise ApiError(400, f"a token id is outside the vocabulary of {vocab_size}", "prompt")
    if isinstance(request, ChatRequest):
        most = request.max_completion_tokens or request.max_tokens or max_length
        top = request.top_logprobs or 0
    else:
        assert isinstance(request, CompletionRequest)
        most = DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
        top = request.logprobs or 0
    temperature = 1.0 if request.temperature is None else request.temperature
    top_p = 1.0 if request.top_p is None else request.top_p
    seed = secrets.randbits(32) if request.seed is None else request.seed
    return [
        Wanted(prompt, Options(most, temperature, top_p, seed + number, stop_ids, top, adapter))
        for prompt in prompts
        for number in range(request.n or 1)
    ]
