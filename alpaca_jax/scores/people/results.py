"""What the votes say, and how far people agree with one another, with a judge, and with the rule that the longer answer wins."""

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alpaca_jax.scores import statistics
from alpaca_jax.scores.people.questions import Question
from alpaca_jax.scores.people.votes import LEVELS, Vote
from alpaca_jax.scores.statistics.bradley_terry import Cluster

TIE = 0.5
ENOUGH_VOTERS = 10  # from which on errors are clustered by voter, too: from a few clusters an error comes out far too small


def results(votes: Sequence[Vote], asked: Iterable[Question], judged: Mapping[str, float], anchor: str) -> dict[str, Any]:
    """Returns as JSON: for each two models their win rate by people, the three agreements with 95% intervals, and a ranking.

    `judged` is a judge's preference for the first model of a question, 0 to 1, by the question's key. Several votes on one question count
    as one prompt in every error; a vote that both answers are bad counts as a tie. The ranking has `anchor` at 0.
    """
    questions = {question.key: question for question in asked}
    by_pair = defaultdict[tuple[str, str], list[Vote]](list)
    for vote in votes:
        by_pair[questions[vote.question].models].append(vote)
    return {
        "votes": len(votes),
        "voters": dict(sorted(Counter(vote.voter for vote in votes).items())),
        "questions": len(questions),
        "voted": len({vote.question for vote in votes}),
        "pairs": [_pair(models, of_pair, questions, judged) for models, of_pair in sorted(by_pair.items())],
        "agreement": _agreements(votes, questions, judged),
        "ranking": _ranking(votes, anchor),
    }


def _pair(models: tuple[str, str], votes: Sequence[Vote], questions: Mapping[str, Question], judged: Mapping[str, float]) -> dict[str, Any]:
    model, against = models
    rate = statistics.win_rate([vote.points(model) for vote in votes], [vote.question for vote in votes])
    keys = sorted({vote.question for vote in votes} & judged.keys())
    of_judge = statistics.win_rate([judged[key] for key in keys], keys) if keys else None
    return {
        "model": model,
        "against": against,
        "rate": dataclasses.asdict(rate),
        "levels": dict(zip(LEVELS, _levels(votes, model), strict=True)),
        "judge": None if of_judge is None else dataclasses.asdict(of_judge),
    }


def _levels(votes: Sequence[Vote], model: str) -> list[int]:
    """How many votes each level has, with `model` as the first."""
    mirrored = dict(zip(LEVELS, (*LEVELS[4::-1], "both_bad"), strict=True))
    count = Counter(vote.level if vote.first == model else mirrored[vote.level] for vote in votes)
    return [count[level] for level in LEVELS]


def _agreements(votes: Sequence[Vote], questions: Mapping[str, Question], judged: Mapping[str, float]) -> list[dict[str, Any]]:
    points = {(vote.question, vote.voter): vote.points(questions[vote.question].models[0]) for vote in votes}
    by_question = defaultdict[str, list[str]](list)
    for key, voter in sorted(points):
        by_question[key].append(voter)
    prompt = {key: questions[key].prompt for key in by_question}
    people = [
        (points[key, one], points[key, other], prompt[key])
        for key, voters in by_question.items()
        for one, other in itertools.combinations(voters, 2)
    ]
    ruled = {key: float(_longer(questions[key])) for key in by_question}
    judges = dict(zip(judged, map(float, statistics.outcomes(list(judged.values()))), strict=True))

    def beside(said: Mapping[str, float]) -> list[tuple[float, float, str]]:
        return [(points[key, voter], said[key], prompt[key]) for key, voter in sorted(points) if key in said]

    return [
        _agreement("people with people", people),
        _agreement("judge with people", beside(judges)),
        _agreement("the longer one wins, with people", beside(ruled)),
    ]


def _agreement(who: str, rows: Sequence[tuple[float, float, str]]) -> dict[str, Any]:
    """Of win, tie and loss as three labels, and of the rows in which neither says that it is a tie."""
    decided = [row for row in rows if TIE not in row[:2]]
    return {"who": who} | {
        name: dataclasses.asdict(statistics.agreement(*map(list, zip(*part, strict=True)))) if part else None
        for name, part in (("all", rows), ("decided", decided))
    }


def _longer(question: Question) -> float:
    first, second = (sum(map(len, texts)) for texts in question.answers)
    return statistics.longer([first], [second])[0]


def _ranking(votes: Sequence[Vote], anchor: str) -> dict[str, Any] | None:
    """Bradley-Terry of all votes with a term for the place; None without votes."""
    if not votes:
        return None
    cast = [statistics.Vote(vote.first, vote.second, vote.points(vote.first), vote.prompt, vote.voter) for vote in votes]
    names = {name for vote in votes for name in (vote.first, vote.second)}
    clusters: tuple[Cluster, ...] = ("prompt", "voter") if len({vote.voter for vote in votes}) >= ENOUGH_VOTERS else ("prompt",)
    ranking = statistics.bradley_terry(cast, anchor if anchor in names else min(names), clusters=clusters)
    return dataclasses.asdict(ranking) | {"clusters": clusters}
