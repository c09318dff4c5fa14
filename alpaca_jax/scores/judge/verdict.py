"""Reads the verdict in an answer of a judge. Pure, so that what was logged is read again for nothing."""

import json
import math
import re
from collections.abc import Mapping

from alpaca_jax.scores.judge.prompt import LABELS, Mode
from alpaca_jax.teacher.protocol import Answer

# Of the probability of the answer's first word, the share that the labels must have together: less is no verdict, but a sentence.
LEAST_SHARE = 0.1
POINTS = {"A": 1.0, "B": 0.0, "C": 0.5}
LONGEST = 10_000  # characters of an answer's end that are looked through for an object
# What tokenizers and writers put around a letter.
_AROUND = " \t\r\n▁Ġ\"'`*_()[]{}<>.:,;!#-"
_LETTER = re.compile(
    r"(?:(?:my|the|final) )*(?:verdict|answer|choice|reply|better answer|better one)?(?: is| would be)?[\s:=*\"'(\[]*([abc])", re.I
)
_WORDS = {"tie": 0.5, "draw": 0.5, "neither": 0.5, "equal": 0.5, "answer a": 1.0, "answer b": 0.0}


def read(answer: Answer, mode: Mode) -> float | None:
    """The probability with which the judge prefers the first answer, a tie as a half; None if there is no verdict to be read.

    A letter and a JSON object give 1, 0 or 0.5. Log-probabilities give the share of A, plus half of C's, of what the labels have together,
    in every spelling of their token (" A", "a", "**A").
    """
    if mode == "logprobs":
        return _from_logprobs(answer)
    text = answer.text or ""
    return _from_json(text) if mode == "json" else _from_text(text)


def shows_logprobs(answer: Answer) -> bool:
    """Whether an answer came with the log-probabilities that were asked for."""
    return any(answer.top)


def _from_logprobs(answer: Answer) -> float | None:
    for top in answer.top:
        shares = dict.fromkeys(("", *LABELS), 0.0)
        for token, logprob in top.items():
            if (bare := token.strip(_AROUND).upper()) in shares:
                shares[bare] += math.exp(logprob)
        empty = shares.pop("")
        if (total := sum(shares.values())) >= LEAST_SHARE:
            return math.fsum(POINTS[label] * share for label, share in shares.items()) / total
        if empty < 0.5:  # else the answer begins with a space or a quotation mark, and the label follows
            return None
    return None


def _from_text(text: str) -> float | None:
    """A whole text, or else its first or its last line, that is a letter, or a letter in one of the usual phrases."""
    lines = [line for line in text.splitlines() if line.strip(_AROUND)]
    for part in dict.fromkeys([text, *lines[:1], *lines[-1:]]):
        bare = part.strip(_AROUND)
        if match := _LETTER.fullmatch(bare):
            return POINTS[match[1].upper()]
        if bare.lower() in _WORDS:
            return _WORDS[bare.lower()]
    return None


def _from_json(text: str) -> float | None:
    """The last JSON object in the text that has a verdict."""
    found, text = None, text[-LONGEST:]
    for start in (match.start() for match in re.finditer(r"\{", text)):
        try:
            value, _ = json.JSONDecoder(parse_int=float).raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, Mapping) and isinstance(said := value.get("verdict"), str) and (read := _from_text(said)) is not None:
            found = read
    return found
