"""One question of the suite, and the rules that say whether a text answers it."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["number", "word", "sequence", "exact", "json"]
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True)
class Question:
    """A prompt with its one right answer, and three wrong answers to choose from. `kind` is what the lenient rule looks for."""

    prompt: str
    answer: str
    wrong: tuple[str, ...]
    kind: Kind

    def __post_init__(self) -> None:
        assert len({self.answer, *self.wrong}) == 1 + len(self.wrong) == CHOICES, self


CHOICES = 4


@dataclass(frozen=True)
class Item:
    """A question of the suite: its name, category, and level (1 easy to 3 hard). `choices` hold the answer at a random place."""

    id: str
    category: str
    level: int
    question: Question
    choices: tuple[str, ...]

    @property
    def right(self) -> int:
        """The place of the answer among the choices."""
        return self.choices.index(self.question.answer)


def strict(question: Question, text: str) -> bool:
    """Returns whether `text` is the answer and nothing else, but for white space around it; for JSON, any spelling of the same value."""
    text = text.strip()
    return _object(text) == json.loads(question.answer) if question.kind == "json" else text == question.answer


def lenient(question: Question, text: str) -> bool:
    """Returns whether `text` gives the answer, whatever stands around it, and neither a wrong choice as well nor merely the prompt again.

    A number: the last one in the first paragraph. A word: it is named, and no wrong choice is. A sequence: its parts are named in this
    order before any other of the words that the choices are made of. An exact text: it stands there, upper and lower case as asked. JSON:
    the first object, in any case.
    """
    return strict(question, text) or RULES[question.kind](question, text.strip())


def _number(question: Question, text: str) -> bool:
    found = NUMBER.findall(re.split(r"\n\s*\n", text)[0])
    return bool(found) and float(found[-1].replace(",", "")) == float(question.answer.replace(",", ""))


def _word(question: Question, text: str) -> bool:
    return _named((question.answer,), text) and not _named(question.wrong, text)


def _sequence(question: Question, text: str) -> bool:
    wanted = _parts(question.answer)
    words = {part for choice in (question.answer, *question.wrong) for part in _parts(choice)}
    named = [word for word in re.findall(r"\w+", text.casefold()) if word in words]
    return named[: len(wanted)] == wanted


def _exact(question: Question, text: str) -> bool:
    return _stands(question.answer, text) and not any(_stands(other, text) for other in question.wrong)


def _json(question: Question, text: str) -> bool:
    found = re.search(r"\{[^{}]*\}", text)
    return found is not None and _object(found[0].casefold()) == json.loads(question.answer.casefold())


RULES: dict[Kind, Callable[[Question, str], bool]] = {
    "number": _number,
    "word": _word,
    "sequence": _sequence,
    "exact": _exact,
    "json": _json,
}


def _parts(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _named(phrases: Sequence[str], text: str) -> bool:
    return any(_stands(phrase.casefold(), text.casefold()) for phrase in phrases)


def _stands(phrase: str, text: str) -> bool:
    """Whether the phrase stands in the text by itself, not as part of a longer word or number."""
    return phrase in text and re.search(rf"(?<![\w.-]){re.escape(phrase)}(?!\w|[.,-]\w)", text) is not None


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
