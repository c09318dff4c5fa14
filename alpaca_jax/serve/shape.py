"""Answers in the JSON of OpenAI's endpoints: whole, or chunk by chunk."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from alpaca_jax.decode.generation import Token
from alpaca_jax.serve.protocol import ChatRequest, CompletionRequest
from alpaca_jax.serve.text import First, Piece
from alpaca_jax.tokenizer import Tokenizer


class Shape(ABC):
    """One request's answer in the JSON of its endpoint."""

    kind: str
    chunk_kind: str
    prefix: str

    def __init__(self, tokenizer: Tokenizer, model: str, asked: CompletionRequest | ChatRequest) -> None:
        self._tokenizer = tokenizer
        self._logprobs = asked.logprobs is not None and asked.logprobs is not False  # 0 asks for the chosen tokens only
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The object around the choices."""
        return self._head | {"object": kind, "choices": choices}

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of a chunk that goes before a choice's first text, if there is one."""
        return None

    @abstractmethod
    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A whole choice."""

    @abstractmethod
    def delta(self, piece: Piece) -> dict[str, Any]:
        """The choice of one chunk."""


class CompletionShape(Shape):
    """Of /v1/completions."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, tokenizer: Tokenizer, model: str, asked: CompletionRequest) -> None:
        super().__init__(tokenizer, model, asked)
        self._name = _by_id if asked.return_tokens_as_token_ids else partial(_text, tokenizer)

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        logprobs = _completion_logprobs(self._name, pieces) if self._logprobs else None
        text = "".join(piece.text for piece in pieces)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": pieces[-1].finish_reason}

    def delta(self, piece: Piece) -> dict[str, Any]:
        return self.choice(piece.choice, [piece])


class ChatShape(Shape):
    """Of /v1/chat/completions."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl"

    def opening(self, index: int) -> dict[str, Any] | None:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
        return {"index": index, "message": message} | self._ending(pieces)

    def delta(self, piece: Piece) -> dict[str, Any]:
        return {"index": piece.choice, "delta": {"content": piece.text} if piece.text else {}} | self._ending([piece])

    def _ending(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        logprobs = _chat_logprobs(self._tokenizer, pieces) if self._logprobs else None
        return {"logprobs": logprobs, "finish_reason": pieces[-1].finish_reason}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The usage object; each prompt counts once, however many choices it has."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _completion_logprobs(name: Callable[[int], str], pieces: Sequence[Piece]) -> dict[str, Any]:
    tokens = [token for piece in pieces for token in piece.tokens]
    return {
        "tokens": [name(token.id) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_likeliest(name, token) for token in tokens],
        "text_offset": [offset for piece in pieces for offset in piece.offsets],
    }


def _likeliest(name: Callable[[int], str], token: Token | First) -> dict[str, float] | None:
    # The chosen token is always among them, as in OpenAI's answers. Of several with the same text (parts of characters) the likeliest
    # counts: clients compare the chosen one with the largest of these to see whether it is the likeliest of all.
    if isinstance(token, First):
        return None
    found: dict[str, float] = {}
    for id, logprob in (*token.top, token[:2]):
        text = name(id)
        found[text] = max(found.get(text, logprob), logprob)
    return found


def _chat_logprobs(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> dict[str, Any]:
    def entry(id: int, logprob: float) -> dict[str, Any]:
        text = _text(tokenizer, id)
        # A token may be a part of a character; its text then stands for no bytes.
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

    def whole(token: Token) -> dict[str, Any]:
        return entry(token.id, token.logprob) | {"top_logprobs": [entry(*likely) for likely in token.top]}

    return {"content": [whole(token) for piece in pieces for token in piece.tokens if isinstance(token, Token)], "refusal": None}


def _by_id(id: int) -> str:
    return f"token_id:{id}"


def _text(tokenizer: Tokenizer, id: int) -> str:
    """The text of one token alone, special tokens by their names."""
    return tokenizer.decode([id], skip_special=False)
