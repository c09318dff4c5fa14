"""Whether the token counts that came with an answer can be true."""

from alpaca_jax.teacher.protocol import Answer, Request

# No tokenizer gets by with fewer tokens: the longest tokens have 128 bytes, and those that join words join at most four.
BYTES_OF_A_TOKEN = 128
WORDS_OF_A_TOKEN = 4


def problem(request: Request, answer: Answer) -> str | None:
    """Why the counts of an answer can't be true, or None."""
    for name, tokens, texts in (
        ("prompt_tokens", answer.prompt_tokens, request.texts),
        ("completion_tokens", answer.completion_tokens, (answer.reasoning, answer.text or "")),
    ):
        if tokens is None:
            return f"usage.{name} is missing, or no number of tokens"
        if tokens < (least := sum(map(fewest, texts))):
            return f"usage.{name} is {tokens}, but the text has {least} tokens or more"
    return None


def fewest(text: str) -> int:
    """A number of tokens that this text has at least."""
    size = len(text.encode("utf-8", "replace"))
    return max(-(-size // BYTES_OF_A_TOKEN), -(-len(text.split()) // WORDS_OF_A_TOKEN))
