"""What is voted on: two models' answers to one prompt, and in which order a voter meets them.

Every choice here is a function of a seed, a voter's name and a question's key: a second start shows the same pages in the same order.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Question:
    """Two models' answers to one prompt, the models in the order of the comparison."""

    prompt: str  # its id
    turns: tuple[str, ...]  # what the user said
    models: tuple[str, str]
    answers: tuple[tuple[str, ...], tuple[str, ...]]  # of each model, one text a turn

    @functools.cached_property
    def key(self) -> str:
        """What a vote is filed under: 16 hex digits of a hash of all of it, so that no vote counts for an answer that nobody has read."""
        return digest(self.prompt, *(digest(*texts) for texts in (self.turns, self.models, *self.answers)))[:16]


def digest(*parts: object) -> str:
    """Returns 64 hex digits that depend on every part and on where one ends and the next begins."""
    texts = [str(part).encode() for part in parts]
    return hashlib.sha256(b"".join(len(text).to_bytes(8, "big") + text for text in texts)).hexdigest()


def shared(questions: Sequence[Question], overlap: float, seed: int) -> set[str]:
    """Returns the keys of the questions that every voter gets: the share `overlap` of all, rounded."""
    ranked = sorted(questions, key=lambda question: digest(seed, "shared", question.key))
    return {question.key for question in ranked[: round(overlap * len(questions))]}


def shuffled(questions: Iterable[Question], voter: str, seed: int) -> list[Question]:
    """Returns the questions in the order in which `voter` meets them, which says nothing about their models."""
    return sorted(questions, key=lambda question: digest(seed, "order", voter, question.key))


def swapped(question: Question, voter: str, seed: int) -> bool:
    """Returns whether `voter` sees the second model's answer as A; for half of all voters and questions it is so."""
    return int(digest(seed, "swap", voter, question.key)[0], 16) % 2 == 1


def ballot(question: Question, voter: str, seed: int) -> str:
    """Returns the id under which the page knows a voter's question: 20 hex digits from which neither models nor order can be read."""
    return digest(seed, "ballot", voter, question.key)[:20]
