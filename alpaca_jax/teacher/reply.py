"""Reads an answer from the body of a reply, whatever is in it: it was paid for, so nothing in it is an error."""

import json
import math
from collections.abc import Mapping
from typing import Any

from alpaca_jax.teacher.protocol import Answer, Reply, Request

LONGEST_NAME = 200  # characters of a model's name, which each record repeats
MOST_POSITIONS = 64  # of an answer, whose likeliest tokens are read
ROUNDING = 1e-3  # above 0, where a log-probability can be by rounding
MOST_TOKENS = 10_000_000  # of one prompt or answer: above every context there is


def read(reply: Reply, request: Request) -> Answer:
    """The answer in a reply; a field counts only if it has the right type."""
    content = _object(_json(reply.body))
    choices = content.get("choices")
    choice = _object(choices[0] if isinstance(choices, list) and choices else None)
    message = _object(choice.get("message"))
    text = message.get("content") if request.endpoint == "chat" else choice.get("text")
    if text is None:
        text = message.get("refusal")  # where OpenAI puts the words of a model that declines
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    prompt, completion, cached = _tokens(_object(content.get("usage")))
    return Answer(
        text=_text(text),
        finish_reason=_text(choice.get("finish_reason")),
        model=(_text(content.get("model")) or reply.model)[:LONGEST_NAME],
        prompt_tokens=prompt,
        completion_tokens=completion,
        seconds=reply.seconds,
        cached_tokens=cached,
        dollars=_dollars(_object(content.get("usage")).get("cost")),
        reasoning=_text(reasoning) or "",
        top=_top(_object(choice.get("logprobs"))) if request.top_logprobs else (),
    )


def count(value: Any) -> int | None:
    """The value if it is a number of tokens, else None: no text, no truth value, nothing below 0, nothing beyond every context."""
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8-sig", "replace"), parse_int=_integer)
    except (ValueError, RecursionError):
        return None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) < 20 else None  # Python refuses to read one of thousands of digits


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    """The text with each half of a character that JSON allows to stand alone replaced, since no file could hold it."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _top(logprobs: Mapping[str, Any]) -> tuple[Mapping[str, float], ...]:
    """The log-probabilities of the likeliest tokens at each position, in the form of chats or that of completions, whichever came."""
    content, before = logprobs.get("content"), logprobs.get("top_logprobs")
    if isinstance(content, list):
        positions = [_alternatives([place, *_list(_object(place).get("top_logprobs"))]) for place in content[:MOST_POSITIONS]]
    else:
        pairs = (
            [{"token": token, "logprob": value} for token, value in _object(place).items()] for place in _list(before)[:MOST_POSITIONS]
        )
        positions = [_alternatives(found) for found in pairs]
    return tuple(positions) if any(positions) else ()


def _alternatives(found: list[Any]) -> Mapping[str, float]:
    """Tokens with log-probabilities that can be true; of those that are spelled alike, as halves of a character are, the likeliest."""
    top: dict[str, float] = {}
    for item in map(_object, found):
        token, value = _text(item.get("token")), item.get("logprob", 1)
        if token is not None and isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value <= ROUNDING:
            top[token] = max(top.get(token, -math.inf), float(value))
    return top


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _tokens(usage: Mapping[str, Any]) -> tuple[int | None, int | None, int]:
    """The tokens of the prompt and of the completion, and how many of the prompt's were cached.

    Completion tokens include those of reasoning, which some servers count beside them, or in the total alone.
    """
    prompt, completion = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    details, total = _object(usage.get("completion_tokens_details")), count(usage.get("total_tokens"))
    reasoning = max(count(place.get("reasoning_tokens")) or 0 for place in (usage, details))
    if completion is not None:
        beside = completion + reasoning if reasoning > completion else completion
        completion = max(beside, total - prompt if total is not None and prompt is not None else 0)
    cached = count(_object(usage.get("prompt_tokens_details")).get("cached_tokens")) or count(usage.get("prompt_cache_hit_tokens")) or 0
    return prompt, completion, cached if cached <= (prompt or 0) else 0


def _dollars(value: Any) -> float:
    return float(value) if type(value) in (int, float) and 0 <= value < math.inf and value < MOST_TOKENS else 0.0
