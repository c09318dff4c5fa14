"""What an evaluation found better: two answers to a prompt, of which a judge or people preferred one."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from alpaca_jax import documents, rundir
from alpaca_jax.errors import UserError
from alpaca_jax.scores import prompts
from alpaca_jax.scores.answers import AnswerSet, file, gather
from alpaca_jax.scores.judge.bouts import Bout, bouts
from alpaca_jax.scores.people import votes
from alpaca_jax.scores.people.questions import Question
from alpaca_jax.scores.prompts import Prompt, PromptSet

SCORES, ANSWERS, VOTES, PREFERENCES = "scores.json", "answers", "votes", "compare/preferences.jsonl"


@dataclasses.dataclass(frozen=True)
class Preferred:
    """The better and the worse answer to a prompt, whose they are, who says so, and by how much: 1 where it is certain, 0 for a tie."""

    prompt: Prompt
    chosen: str
    rejected: str
    models: tuple[str, str]
    by: Literal["judge", "people"]
    margin: float


def read(folder: Path, by: Literal["judge", "people"] | None = None) -> tuple[list[Preferred], Counter[str]]:
    """Returns what was preferred in the `evaluate` folder of a run, prompt after prompt, and what isn't of use, counted by why.

    What people voted on counts by their votes, whatever the judge said of it; `by` leaves out the other. Ties and prompts of several turns,
    whose answers don't go on from the same ones, are of no use. A UserError where nothing was compared.
    """
    asked, sets = _answered(folder)
    met = {(bout.prompt.id, bout.texts): bout for bout in _bouts(asked, sets)}
    judged = {} if by == "people" else _judged(folder / PREFERENCES)
    voted = {} if by == "judge" else _voted(folder / VOTES, met)
    if not judged and not voted:
        raise UserError(
            f"{folder} has no preferences of {by or 'a judge or people'}: compare its answers with compare=judge, or have people vote with "
            "action=vote"
        )
    counted = Counter[str]()
    found = [_preferred(met.get(key), points, "people" if key in voted else "judge", counted) for key, points in (judged | voted).items()]
    return [each for each in found if each is not None], counted


def question(bout: Bout) -> Question:
    """Returns what people see of a bout."""
    turns = (bout.prompt.system, *bout.prompt.turns) if bout.prompt.system else bout.prompt.turns
    return Question(bout.prompt.id, turns, (bout.model, bout.against), (bout.ours.texts, bout.theirs.texts))


def _preferred(bout: Bout | None, points: float, by: Literal["judge", "people"], counted: Counter[str]) -> Preferred | None:
    margin = abs(2 * points - 1)
    problem = ("answered_anew" if bout is None else "several_turns" if len(bout.prompt.turns) > 1 else "equal" if bout.equal else "") or (
        "tied" if not margin else ""
    )
    if problem or bout is None:
        counted[problem] += 1
        return None
    sides = [(bout.ours.text, bout.model), (bout.theirs.text, bout.against)]
    (chosen, winner), (rejected, loser) = sides if points > 0.5 else sides[::-1]
    return Preferred(bout.prompt, chosen, rejected, (winner, loser), by, margin)


def _answered(folder: Path) -> tuple[PromptSet, dict[str, AnswerSet]]:
    """The prompts of an evaluation and all answers to them."""
    scores = rundir.read_json(folder / SCORES) if (folder / SCORES).is_file() else {}
    if not isinstance(scores, dict) or not scores.get("answers"):
        raise UserError(f"{folder} has no answers; evaluate first, with answers.prompts=FILE and compare=judge")
    whole = prompts.read(scores["answers"]["prompts"]["place"])
    asked = whole.first(scores["answers"]["prompts"]["number"])
    names = {each["name"] for each in scores["answers"]["sets"]} | {
        name for one in (scores.get("compare") or {}).get("comparisons", []) for name in (one["model"], one["against"])
    }
    places = {name: gather.path(folder / ANSWERS, name) for name in sorted(names)}
    return asked, {name: file.read(place, whole, name, "pairs.evaluation").within(asked) for name, place in places.items()}


def _bouts(asked: PromptSet, sets: Mapping[str, AnswerSet]) -> Iterator[Bout]:
    """Every two sets in both orders, since a file of preferences has one of them."""
    for one, first in sets.items():
        for other, second in sets.items():
            if one != other:
                yield from bouts(asked, first, second)


def _judged(path: Path) -> dict[tuple[str, str], float]:
    """The judge's points for the first of two answers, by prompt and the hash of both."""
    found = {}
    for number, line in enumerate(documents.read(path).splitlines() if path.is_file() else [], 1):
        entry = documents.json_object(line, f"{path}, line {number}")
        if entry.get("preference") is not None and entry.get("asked", True):
            found[str(entry["prompt"]), str(entry["texts"])] = float(entry["preference"])
    return found


def _voted(folder: Path, met: Mapping[tuple[str, str], Bout]) -> dict[tuple[str, str], float]:
    """The mean points of everybody's votes, in the same way."""
    ledgers = votes.read(folder) if folder.is_dir() else []
    places = {question(bout).key: key for key, bout in met.items()} if ledgers else {}
    points = defaultdict[Any, list[float]](list)
    for vote in votes.all_votes(ledgers, places):
        key = places[vote.question]
        points[key].append(vote.points(met[key].model))
    return {key: sum(each) / len(each) for key, each in points.items()}
