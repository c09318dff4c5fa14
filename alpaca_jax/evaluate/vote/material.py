"""What people vote on, and what a judge said of it, as an evaluation left it in its folder."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import documents, rundir
from alpaca_jax.errors import UserError
from alpaca_jax.scores import prompts
from alpaca_jax.scores.answers import AnswerSet, file
from alpaca_jax.scores.people.questions import Question, digest
from alpaca_jax.scores.prompts import PromptSet

SCORES, PAGE, ANSWERS, VOTES, PREFERENCES = "scores.json", "report.html", "answers", "votes", "compare/preferences.jsonl"


@dataclasses.dataclass(frozen=True)
class Material:
    """The questions of a vote; the judge's preference for the first model of each, where it has one; and which model is the measure."""

    questions: tuple[Question, ...]
    judged: Mapping[str, float]  # by the key of the question
    anchor: str
    equal: int  # pairs of equal answers: ties about which nobody is asked


def read(folder: Path, seed: int) -> Material:
    """Returns the Material in `dir/evaluate`; a UserError where fewer than two models' answers are there."""
    scores = rundir.read_json(folder / SCORES) if (folder / SCORES).is_file() else {}
    if not isinstance(scores, dict) or not scores.get("answers"):
        raise UserError(f"{folder} has no answers to vote on; evaluate first, with answers.prompts=FILE and two models or files of answers")
    asked = prompts.read(scores["answers"]["prompts"]["place"]).first(scores["answers"]["prompts"]["number"])
    names = [each["name"] for each in scores["answers"]["sets"]]
    sets = {name: file.read(folder / ANSWERS / f"{name}.jsonl", asked, name, "dir") for name in names}
    pairs = _pairs(scores.get("compare"), names)
    if not pairs:
        raise UserError(f"{folder} has the answers of {', '.join(names)} alone; people compare two models: add those of another")
    chosen = [one for model, against in pairs for one in _questions(asked, sets[model], sets[against], seed)]
    judged = _judged(folder / PREFERENCES)
    return Material(
        questions=tuple(question for question, _ in chosen if question.answers[0] != question.answers[1]),
        judged={question.key: judged[at] for question, number in chosen if (at := (*question.models, question.prompt, number)) in judged},
        anchor=pairs[0][1],
        equal=sum(question.answers[0] == question.answers[1] for question, _ in chosen),
    )


def _pairs(compared: Any, names: Sequence[str]) -> list[tuple[str, str]]:
    """What the judge compared; every two models where no judge did."""
    found = [(one["model"], one["against"]) for one in (compared or {}).get("comparisons", [])]
    return [pair for pair in found if set(pair) <= set(names)] or list(itertools.combinations(names, 2))


def _questions(asked: PromptSet, model: AnswerSet, against: AnswerSet, seed: int) -> list[tuple[Question, int]]:
    """A question for each prompt that both have answered, with the number of the seed whose answers it shows: one drawn for all voters."""
    found = []
    for prompt in asked:
        both = model.answers.get(prompt.id, ()), against.answers.get(prompt.id, ())
        if number := min(map(len, both)):
            drawn = int(digest(seed, "seed", model.name, against.name, prompt.id)[:8], 16) % number
            texts: tuple[Any, Any] = tuple(each[drawn].texts for each in both)
            found.append((Question(prompt.id, prompt.turns, (model.name, against.name), texts), drawn))
    return found


def _judged(path: Path) -> dict[tuple[str, str, str, int], float]:
    """The judge's preference by model, the other, prompt and number of the seed; none where no judge was asked."""
    found = {}
    for number, line in enumerate(documents.read(path).splitlines() if path.is_file() else [], 1):
        entry = documents.json_object(line, f"{path}, line {number}")
        if entry.get("preference") is not None:
            found[entry["model"], entry["against"], entry["prompt"], entry["seed"]] = float(entry["preference"])
    return found
