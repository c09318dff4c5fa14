"""The lines of a log of answers: written, and read again whatever became of the file."""

import base64
import binascii
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax.documents import json_value
from alpaca_jax.errors import UserError
from alpaca_jax.teacher import reply
from alpaca_jax.teacher.protocol import Answer, Reply, Request

LONGEST = 64 << 20  # bytes of a line
MOST_INDICES, MOST_STEPS = 10**9, 1000
TEXTS, NUMBERS = ("endpoint", "prompt", "system"), ("max_tokens", "temperature", "top_p", "seed")  # of a request


def written(request: Request, received: Reply) -> dict[str, Any]:
    """The request and the reply as JSON: the body as the text it is, or in base64 where it is none."""
    try:
        body = {"body": received.body.decode()}
    except UnicodeDecodeError:
        body = {"base64": base64.b64encode(received.body).decode()}
    asked = {**dataclasses.asdict(request), "stop": list(request.stop)}
    for name in ("earlier", "top_logprobs"):
        if not asked[name]:
            del asked[name]  # as in the logs from before requests had them
    return {"request": asked, "answer": {**body, "model": received.model, "seconds": received.seconds}}


def text(line: Mapping[str, Any]) -> str:
    """The line as it is written."""
    return json.dumps(line, ensure_ascii=False)


def parsed(line: Mapping[str, Any]) -> tuple[Request, Answer]:
    """The request and the answer of a line; a ValueError says what is wrong."""
    request, answer = line.get("request"), line.get("answer")
    if not isinstance(request, dict) or not isinstance(answer, dict):
        raise ValueError("no request with its answer")
    asked = _request(request)
    if "body" not in answer and "base64" not in answer:
        return asked, _read_before(answer)
    if "body" in answer and not isinstance(answer["body"], str):
        raise ValueError("the answer's body is no text")
    try:
        body = answer["body"].encode() if "body" in answer else base64.b64decode(answer["base64"], validate=True)
    except (TypeError, binascii.Error) as problem:
        raise ValueError(f"base64: {problem}") from None
    return asked, reply.read(Reply(body=body, model=str(answer.get("model", "")), seconds=_seconds(answer)), asked)


def place(line: Mapping[str, Any]) -> tuple[int, int]:
    """The index and the step of a line; a ValueError if it has none."""
    index, step = line.get("index"), line.get("step")
    if type(index) is not int or type(step) is not int or not (0 <= index < MOST_INDICES and 0 <= step < MOST_STEPS):
        raise ValueError("index and step must be numbers from 0")
    return index, step


def dollars(line: Mapping[str, Any], kind: str) -> float:
    """The dollars of a note; a ValueError if they are none."""
    if type(value := line[kind]) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{kind} must be a number of dollars from 0")
    return float(value)


def read(file: Path) -> Iterator[tuple[int, int, dict[str, Any] | str]]:
    """(number from 1, first byte, content or what is wrong with it) of each line that isn't empty.

    A line that a kill left torn is left out: the next append removes it. A UserError if the file can't be read.
    """
    try:
        with open(file, "rb") as opened:
            for number in itertools.count(1):
                begin, line = opened.tell(), opened.readline(LONGEST)
                while len(line) == LONGEST and not line.endswith(b"\n") and opened.readline(LONGEST)[-1:] not in (b"\n", b""):
                    pass
                if not line:
                    return
                if (content := _content(line)) is not None:
                    yield number, begin, content
    except OSError as problem:
        raise UserError(f"{file} can't be read ({problem.strerror}); give another dir=") from None


def _content(line: bytes) -> dict[str, Any] | str | None:
    """The object of a line, what is wrong with it, or None for one that is empty or torn."""
    if not line.strip():
        return None
    if len(line) == LONGEST:
        return f"longer than {LONGEST:,} bytes"
    try:
        content = json_value(line)
    except ValueError as problem:
        return str(problem) if line.endswith(b"\n") else None
    return content if isinstance(content, dict) else "not an object"


def _request(fields: Mapping[str, Any]) -> Request:
    if not all(isinstance(fields.get(name, ""), str) for name in TEXTS) or not isinstance(fields.get("stop", []), list):
        raise ValueError("its request isn't one: a text is due")
    if not all(type(fields.get(name)) in (int, float) and math.isfinite(fields[name]) for name in NUMBERS) or fields["max_tokens"] < 0:
        raise ValueError("its request isn't one: a number is due")
    if type(fields.get("top_logprobs", 0)) is not int:
        raise ValueError("its request isn't one: a number of top_logprobs is due")
    try:
        return Request(**{**fields, "stop": tuple(fields.get("stop", [])), "earlier": _earlier(fields.get("earlier", []))})
    except TypeError as problem:
        raise ValueError(f"its request isn't one: {problem}") from None


def _earlier(turns: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(turns, list) or not all(isinstance(turn, list) and [type(text) for text in turn] == [str, str] for turn in turns):
        raise ValueError("its request isn't one: earlier turns are due as pairs of texts")
    return tuple((user, assistant) for user, assistant in turns)


def _read_before(fields: Mapping[str, Any]) -> Answer:
    """An answer of which only the parts were logged, as earlier versions did; a count that is none is None."""
    text, reason = fields.get("text"), fields.get("finish_reason")
    if "text" not in fields or not isinstance(text, str | None) or not isinstance(reason, str | None):
        raise ValueError("its answer has no text")
    return Answer(
        text=text,
        finish_reason=reason,
        model=str(fields.get("model", "")),
        prompt_tokens=reply.count(fields.get("prompt_tokens")),
        completion_tokens=reply.count(fields.get("completion_tokens")),
        seconds=_seconds(fields),
    )


def _seconds(fields: Mapping[str, Any]) -> float:
    seconds: Any = fields.get("seconds")
    return float(seconds) if type(seconds) in (int, float) and 0 <= seconds < math.inf else 0.0
