"""An answer, and what one model answered to a prompt set."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from alpaca_jax.scores.prompts import PromptSet


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was answered to one prompt with one seed: `text` to its first turn, `later` to those that follow.

    `finish_reason` ("stop", "length") and `tokens`, which count all turns, are None where a file doesn't say.
    """

    text: str
    seed: int = 0
    finish_reason: str | None = None
    tokens: int | None = None
    later: tuple[str, ...] = ()
    shortened: bool = False  # the prompt lost its beginning, since it left no room for an answer

    @property
    def texts(self) -> tuple[str, ...]:
        """The answers to all turns."""
        return (self.text, *self.later)

    @property
    def cut(self) -> bool:
        """Whether the limit of tokens ended it."""
        return self.finish_reason == "length"


@dataclasses.dataclass(frozen=True)
class AnswerSet:
    """The answers of one model, by the id of their prompt and in the order of the set, one for each seed.

    `missing` are the prompts without an answer; `notes` says in words what was odd: answers to other prompts, doubled or damaged ones.
    """

    name: str  # short; unique among the sets that are compared
    source: str  # the model, the address of the endpoint or the file
    prompts_fingerprint: str  # of the whole prompt set
    answers: Mapping[str, tuple[Answer, ...]]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: str = ""  # as the file or the endpoint calls it
    bill: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of an endpoint: requests, tokens, dollars

    @classmethod
    def of(cls, name: str, source: str, prompts: PromptSet, found: Mapping[str, Sequence[Answer]], **more: Any) -> "AnswerSet":
        """The set of the answers that were found to some of the prompts."""
        answers = {prompt.id: tuple(found[prompt.id]) for prompt in prompts if found.get(prompt.id)}
        missing = tuple(prompt.id for prompt in prompts if prompt.id not in answers)
        return cls(name, source, prompts.whole, answers, missing, **more)

    def within(self, prompts: PromptSet) -> "AnswerSet":
        """The part of the set that answers these prompts."""
        more = {name: getattr(self, name) for name in ("notes", "model", "bill")}
        return AnswerSet.of(self.name, self.source, prompts, self.answers, **more)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all ids and texts, 16 hex digits: equal for sets that say the same, whatever their names."""
        content = [[id, [each.texts for each in answers]] for id, answers in self.answers.items()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def seeds(self) -> int:
        """The most answers that a prompt has."""
        return max(map(len, self.answers.values()), default=0)

    def figures(self) -> dict[str, Any]:
        """What is counted of it, as a JSON value: answers, those empty, cut or shortened, their mean length, missing prompts."""
        all_answers = [answer for answers in self.answers.values() for answer in answers]
        counted = [answer.tokens for answer in all_answers if answer.tokens is not None]
        number = len(all_answers)
        return {
            "name": self.name,
            "source": self.source,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "answered": len(self.answers),
            "missing": list(self.missing),
            "answers": number,
            "seeds": self.seeds,
            "empty": sum(not answer.text.strip() for answer in all_answers),
            "cut": sum(answer.cut for answer in all_answers),
            "shortened": sum(answer.shortened for answer in all_answers),
            "mean_chars": sum(len(answer.text) for answer in all_answers) / number if number else None,
            "mean_tokens": sum(counted) / len(counted) if counted else None,
            "bill": dict(self.bill) or None,
            "notes": list(self.notes),
        }
