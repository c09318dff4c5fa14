"""When an item counts as touched, and the score without those that are."""

import dataclasses
from collections.abc import Mapping, Sequence

from alpaca_jax.scores.contamination.overlap import Touch

RULES = ("equal", "gram13", "gram8", "rouge_l")
IN_WORDS = {"equal": "equal", "gram13": "13 words in a row", "gram8": "8 words in a row", "rouge_l": "ROUGE-L"}


@dataclasses.dataclass(frozen=True)
class Split:
    """A mean score of all items, of those that a rule doesn't touch, and of those that it does; None where there are none."""

    rule: str
    items: int  # that have a score
    touched: int
    all: float | None
    without: float | None
    touched_alone: float | None


def touched(touch: Touch, rule: str, rouge_l: float) -> bool:
    """Whether a rule touches an item; `rouge_l` is the least ROUGE-L that does."""
    return touch.rouge_l >= rouge_l if rule == "rouge_l" else getattr(touch, rule) > 0


def split(touches: Sequence[Touch], scores: Mapping[str, float], rouge_l: float) -> list[Split]:
    """Returns a Split a rule for the scores by the id of their item; items without a score are left out."""
    scored = [touch for touch in touches if touch.item.id in scores]
    made = []
    for rule in RULES:
        inside, outside = list[float](), list[float]()
        for touch in scored:
            (inside if touched(touch, rule, rouge_l) else outside).append(scores[touch.item.id])
        made.append(Split(rule, len(scored), len(inside), _mean(inside + outside), _mean(outside), _mean(inside)))
    return made


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
