"""Text to ids and back over HTTP, in the shape of vLLM's endpoints: what a client needs to ask in ids without having the tokenizer."""

from typing import Annotated, Any

from pydantic import Field

from alpaca_jax.serve.protocol import ApiError, Body, Message, chat_ids, text_ids
from alpaca_jax.tokenizer import Tokenizer


class TokenizeRequest(Body):
    """POST /tokenize: a text, or the messages of a chat."""

    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None  # BOS before a text, where the tokenizer wants it; a chat's template writes its own
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None

    def check(self) -> None:
        """Raises an ApiError where the request asks for what isn't there."""
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "give either prompt or messages", "prompt")
        if self.messages is not None and self.add_special_tokens:
            raise ApiError(400, "a chat's template writes the special tokens: leave add_special_tokens out", "add_special_tokens")

    def answer(self, tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
        """The ids, their number, and how many the server takes."""
        if self.prompt is not None:
            ids = text_ids(tokenizer, self.prompt, bos=self.add_special_tokens is not False)
        else:
            ids = chat_ids(tokenizer, self.messages or [], self.add_generation_prompt)
        texts = [tokenizer.backend.token(id) for id in ids] if self.return_token_strs else None
        return {"count": len(ids), "max_model_len": max_length, "tokens": ids, "token_strs": texts}


class DetokenizeRequest(Body):
    """POST /detokenize."""

    tokens: list[int]

    def answer(self, tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
        """The text of the ids, special tokens by their names."""
        if not all(0 <= id < vocab_size for id in self.tokens):
            raise ApiError(400, f"a token id is outside the vocabulary of {vocab_size}", "tokens")
        return {"prompt": tokenizer.decode(self.tokens, skip_special=False)}


def tokenizer_info(tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    """GET /tokenizer_info: what its tokenizer_config.json says, and how many tokens the server takes."""
    return {"chat_template": None, **tokenizer.settings(), "model_max_length": max_length}
