"""What people vote on, and what a judge said of it, as an evaluation left it in its folder."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import documents, rundir
from alpaca_jax.errors import UserError
from alpaca_jax.scores import prompts
from alpaca_jax.scores.answers import AnswerSet, file, gather
from alpaca_jax.scores.judge.bouts import Bout, bouts
from alpaca_jax.scores.people.questions import Question, digest
from alpaca_jax.scores.preferred import question
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
    whole = prompts.read(scores["answers"]["prompts"]["place"])
    asked = whole.first(scores["answers"]["prompts"]["number"])
    names = [each["name"] for each in scores["answers"]["sets"]]
    pairs = _pairs(scores.get("compare"), names)
    if not pairs:
        raise UserError(f"{folder} has the answers of {', '.join(names)} alone; people compare two models: add those of another")
    places = {name: gather.path(folder / ANSWERS, name) for pair in pairs for name in pair}
    sets = {name: file.read(place, whole, name, "dir").within(asked) for name, place in places.items()}
    chosen = [one for model, against in pairs for one in _questions(asked, sets[model], sets[against], seed)]
    judged = _judged(folder / PREFERENCES) if scores.get("compare") else {}  # else the file is of earlier models
    return Material(
        questions=tuple(question for question, _ in chosen if question.answers[0] != question.answers[1]),
        judged={question.key: judged[at] for question, bout in chosen if (at := (*question.models, question.prompt, bout.texts)) in judged},
        anchor=pairs[0][1],
        equal=sum(question.answers[0] == question.answers[1] for question, _ in chosen),
    )


def _pairs(compared: Any, names: Sequence[str]) -> list[tuple[str, str]]:
    """What the judge compared; every two models where no judge did."""
    found = [(one["model"], one["against"]) for one in (compared or {}).get("comparisons", [])]
    return found or list(itertools.combinations(names, 2))


def _questions(asked: PromptSet, model: AnswerSet, against: AnswerSet, seed: int) -> list[tuple[Question, Bout]]:
    """A question for each prompt that both have answered, with the answers that it shows: of several seeds one, drawn for all voters."""
    by_prompt = defaultdict[str, list[Bout]](list)
    for bout in bouts(asked, model, against):
        by_prompt[bout.prompt.id].append(bout)
    return [_drawn(several, seed) for several in by_prompt.values()]


def _drawn(several: Sequence[Bout], seed: int) -> tuple[Question, Bout]:
    bout = min(several, key=lambda each: digest(seed, "seed", each.model, each.against, each.prompt.id, each.seed))
    return question(bout), bout


def _judged(path: Path) -> dict[tuple[str, str, str, str], float]:
    """The judge's preference by model, the other, prompt and the hash of both answers; none where no judge was asked."""
    found = {}
    for number, line in enumerate(documents.read(path).splitlines() if path.is_file() else [], 1):
        entry = documents.json_object(line, f"{path}, line {number}")
        if entry.get("preference") is not None:
            found[entry["model"], entry["against"], entry["prompt"], entry["texts"]] = float(entry["preference"])
    return found
