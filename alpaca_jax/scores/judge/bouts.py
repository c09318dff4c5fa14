"""Two sets of answers to the same prompts, answer by answer: what a judge is asked about them, and what it preferred."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alpaca_jax.scores.answers import Answer, AnswerSet
from alpaca_jax.scores.judge.asking import Verdict
from alpaca_jax.scores.judge.prompt import Pair
from alpaca_jax.scores.prompts import Prompt, PromptSet

TIE = Verdict(0.5)


@dataclasses.dataclass(frozen=True)
class Bout:
    """An answer of a model and one of the other's to the same prompt; `seed` counts the answers to a prompt from 0."""

    model: str
    against: str
    prompt: Prompt
    seed: int
    ours: Answer
    theirs: Answer

    @property
    def equal(self) -> bool:
        """Whether both say the same: a tie, which no judge is asked about."""
        return self.ours.texts == self.theirs.texts

    @property
    def texts(self) -> str:
        """A hash of both answers: a preference is one for these texts, whatever the models answer later."""
        return hashlib.sha256(json.dumps([self.ours.texts, self.theirs.texts]).encode()).hexdigest()[:16]

    @property
    def pairs(self) -> tuple[Pair, Pair]:
        """What the judge sees: our answer first, and second."""
        turns, system, ours, theirs = self.prompt.turns, self.prompt.system, self.ours.texts, self.theirs.texts
        return Pair(turns, ours, theirs, system), Pair(turns, theirs, ours, system)


@dataclasses.dataclass(frozen=True)
class Fought:
    """A bout with the verdict of each order as the preference for the model: shown first, and second."""

    bout: Bout
    first: Verdict
    second: Verdict

    @property
    def preference(self) -> float | None:
        """The mean of both orders; None where one of them has no verdict, since the other alone has the judge's position in it."""
        if self.first.preferred is None or self.second.preferred is None:
            return None
        return (self.first.preferred + self.second.preferred) / 2

    def line(self) -> dict[str, Any]:
        """As JSON."""
        bout = self.bout
        head = {"model": bout.model, "against": bout.against, "prompt": bout.prompt.id, "seed": bout.seed, "texts": bout.texts}
        return head | {
            "preference": self.preference,
            "first": self.first.preferred,
            "second": self.second.preferred,
            "asked": not bout.equal,
        }


def bouts(prompts: PromptSet, model: AnswerSet, against: AnswerSet) -> list[Bout]:
    """All of two sets, seed after seed; where one has fewer answers to a prompt than the other, they meet several."""
    made = []
    for seed in range(max(model.seeds, against.seeds)):
        for prompt in prompts:
            ours, theirs = (side.answers.get(prompt.id, ()) for side in (model, against))
            if ours and theirs and seed < max(len(ours), len(theirs)):
                made.append(Bout(model.name, against.name, prompt, seed, ours[seed % len(ours)], theirs[seed % len(theirs)]))
    return made


def to_ask(all_bouts: Sequence[Bout]) -> list[Pair]:
    """The pairs that the judge has to see, both orders of a bout after each other."""
    return [pair for bout in all_bouts if not bout.equal for pair in bout.pairs]


def fought(all_bouts: Sequence[Bout], verdicts: Sequence[Verdict]) -> Iterator[Fought]:
    """The bouts with the verdicts on `to_ask` of them."""
    given = iter(verdicts)
    for bout in all_bouts:
        if bout.equal:
            yield Fought(bout, TIE, TIE)
        else:
            first, second = next(given), next(given)
            yield Fought(bout, first, Verdict(None if second.preferred is None else 1 - second.preferred, second.problem))


def lengths(all_bouts: Sequence[Bout]) -> Mapping[str, tuple[int, int]]:
    """The characters of the model's and of the other's answers by prompt, averaged over seeds."""
    found: dict[str, list[tuple[int, int]]] = {}
    for bout in all_bouts:
        found.setdefault(bout.prompt.id, []).append((sum(map(len, bout.ours.texts)), sum(map(len, bout.theirs.texts))))
    return {prompt: (_mean([ours for ours, _ in each]), _mean([theirs for _, theirs in each])) for prompt, each in found.items()}


def _mean(numbers: Sequence[int]) -> int:
    return round(sum(numbers) / len(numbers))
