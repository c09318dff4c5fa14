"""The items of the suite: a few hundred questions, generated and so the same wherever this version is."""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence

from alpaca_jax.scores.suites.basics.draw import Draw
from alpaca_jax.scores.suites.basics.item import Item, Question, lenient
from alpaca_jax.scores.suites.basics.questions import CATEGORIES

VERSION = 1  # scores of different versions aren't comparable: raise it with any change that changes an item or a rule
LEVELS = {1: 20, 2: 15, 3: 15}  # items of each level in a category


@functools.cache
def every(seed: int = 0) -> tuple[Item, ...]:
    """Returns the 300 items, category by category, levels mixed; the suite that scores are published for has the seed 0."""
    return tuple(item for category in CATEGORIES for item in _category(category, seed))


def chosen(categories: Sequence[str] = (), limit: int | None = None, seed: int = 0) -> list[Item]:
    """Returns the items of these categories (of all where none is named), the first `limit` of each."""
    wanted = categories or tuple(CATEGORIES)
    by_category = {name: [item for item in every(seed) if item.category == name] for name in wanted}
    return [item for items in by_category.values() for item in items[:limit]]


def fingerprint(items: Iterable[Item]) -> str:
    """Returns the sha256 (hex) of all that the items say."""
    lines = [[item.id, item.level, item.question.prompt, item.question.answer, item.question.kind, item.choices] for item in items]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _category(category: str, seed: int) -> Iterator[Item]:
    draw = Draw(f"alpaca_jax basics {VERSION} {category} {seed}")
    questions = {level: list(itertools.islice(_questions(draw, category, level), count)) for level, count in LEVELS.items()}
    # Mixed, so that the first few are as hard as all of them.
    mixed = draw.shuffled([(level, question) for level, of_level in questions.items() for question in of_level])
    for number, (level, question) in enumerate(mixed, start=1):
        choices = tuple(draw.shuffled((question.answer, *question.wrong)))
        yield Item(f"{category}-{number:02}", category, level, question, choices)


def _questions(draw: Draw, category: str, level: int) -> Iterator[Question]:
    """Different questions of a level, without end; none that a repetition of its prompt would answer."""
    seen: set[str] = set()
    while True:
        question = CATEGORIES[category](draw, level)
        if question.prompt not in seen and not lenient(question, question.prompt):
            seen.add(question.prompt)
            yield question
