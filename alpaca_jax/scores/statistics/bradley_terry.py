"""Many models from pairwise votes: Bradley and Terry's strengths (1952), with ties as halves and a term for the first place.

The log odds that the first answer wins are strength(first) - strength(second) + position. Votes on a prompt depend on each other, and so do
votes of a voter; the standard errors allow for both. A strength exists only where models are linked by wins both ways (Ford 1957):
models that never met, and models that won or lost everything, are named and not ranked.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from alpaca_jax.scores.statistics.estimate import LEVEL, Estimate, two_sided, with_error
from alpaca_jax.scores.statistics.linked import Apart, linked
from alpaca_jax.scores.statistics.logistic import Fit, fit
from alpaca_jax.scores.statistics.paired import holm

ELO = 400 / math.log(10)  # Elo points a logit
Cluster = Literal["prompt", "voter"]
FEWEST = 10  # clusters, for errors that are clustered by them


@dataclasses.dataclass(frozen=True)
class Vote:
    """One verdict: the models whose answers were shown first and second, 1 where the first is better, 0 the second, 0.5 a tie."""

    first: str
    second: str
    outcome: float
    prompt: str
    voter: str = ""


@dataclasses.dataclass(frozen=True)
class Strength:
    """One ranked model: its strength over the anchor's in logits and Elo, its rank (1 the best) and the 95% interval of that."""

    name: str
    logit: Estimate
    elo: Estimate
    rank: int
    ranks: tuple[int, int]
    votes: int


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The models that can be ranked, best first, and those that can't."""

    anchor: str
    models: tuple[Strength, ...]
    position: Estimate | None  # logits for the first place; None where it isn't in the model
    position_note: str  # why it isn't
    apart: tuple[Apart, ...]
    votes: int  # among the ranked
    prompts: int
    voters: int
    clustered: tuple[Cluster, ...]  # what the standard errors are clustered by; (): votes are taken as independent


def last_votes(votes: Iterable[Vote]) -> list[Vote]:
    """The last vote of each voter on each prompt and pair of models, in whichever order shown: who votes again has changed their mind."""
    last: dict[tuple[str, str, frozenset[str]], Vote] = {}
    for vote in votes:
        last[vote.voter, vote.prompt, frozenset((vote.first, vote.second))] = vote
    return list(last.values())


def bradley_terry(votes: Sequence[Vote], anchor: str, position: bool = True, clusters: Sequence[Cluster] = ("prompt", "voter")) -> Ranking:
    """The ranking of all models in `votes` with the anchor at 0; ValueError where no vote is about the anchor.

    Standard errors are clustered by prompt, by voter, or by both (votes that share either depend on each other), as far as there are ten of
    them or more. Whoever votes several times on a pair counts as often: see `last_votes`.
    """
    # Sorted, so that the order of votes can't change the last bit.
    votes = sorted(votes, key=lambda vote: (vote.first, vote.second, vote.outcome, vote.prompt, vote.voter))
    names = sorted({name for vote in votes for name in (vote.first, vote.second)})
    if anchor not in names:
        raise ValueError(f"the anchor {anchor} is in no vote; there are votes on {', '.join(names) or 'nothing'}")
    ranked, apart = linked(names, _beats(votes, names), anchor)
    used = [vote for vote in votes if vote.first in ranked and vote.second in ranked]
    counts = {"prompts": len({vote.prompt for vote in used}), "voters": len({vote.voter for vote in used})}
    if len(ranked) == 1:
        alone = Strength(anchor, Estimate(0, None, None, None), Estimate(0, None, None, None), 1, (1, 1), 0)
        return Ranking(anchor, (alone,), None, "nothing is ranked", tuple(apart), len(used), **counts, clustered=())
    free = [name for name in ranked if name != anchor]
    y = np.array([vote.outcome for vote in used])
    pairs = np.array([[(vote.first == name) - float(vote.second == name) for name in free] for vote in used])
    solved, note = _fitted(pairs, y, position)
    clustered = _clustered(used, clusters)
    covariance = solved.sandwich(*(_numbers(used, cluster) for cluster in clustered))
    place = None if note else with_error(float(solved.weights[-1]), math.sqrt(covariance[-1, -1]))
    size = len(free)
    models = _ranked([*free, anchor], np.append(solved.weights[:size], 0.0), np.pad(covariance[:size, :size], (0, 1)), used)
    return Ranking(anchor, models, place, note, tuple(apart), len(used), **counts, clustered=clustered)


def _beats(votes: Sequence[Vote], names: list[str]) -> np.ndarray:
    """How often each model won against each other one, a tie being half a win of either."""
    number = {name: place for place, name in enumerate(names)}
    beats_MM = np.zeros((len(names), len(names)))
    for vote in votes:
        beats_MM[number[vote.first], number[vote.second]] += vote.outcome
        beats_MM[number[vote.second], number[vote.first]] += 1 - vote.outcome
    return beats_MM


def _fitted(pairs: np.ndarray, outcomes: np.ndarray, position: bool) -> tuple[Fit, str]:
    """The fit with the first place as its last column or, with the reason, without it."""
    note = "not asked for"
    if position:
        design = np.column_stack([pairs, np.ones(len(pairs))])
        solved = fit(design, outcomes)
        if solved:
            return solved, ""
        note = "the first place decides the votes: no finite position fits them"
        if np.linalg.matrix_rank(design) < design.shape[1]:
            note = "no two models were shown in both orders, so the first place can't be told from the better model"
    solved = fit(pairs, outcomes)
    assert solved is not None, "models that are linked by wins both ways have finite strengths"
    return solved, note


def _clustered(votes: Sequence[Vote], clusters: Sequence[Cluster]) -> tuple[Cluster, ...]:
    """The clusters of which there are enough; few ones seem to agree by chance, and would make the errors smaller than they are."""
    return tuple(cluster for cluster in dict.fromkeys(clusters) if len({getattr(vote, cluster) for vote in votes}) >= FEWEST)


def _numbers(votes: Sequence[Vote], cluster: Cluster) -> np.ndarray:
    return np.unique([getattr(vote, cluster) for vote in votes], return_inverse=True)[1]


def _ranked(names: list[str], strengths: np.ndarray, covariance: np.ndarray, votes: Sequence[Vote]) -> tuple[Strength, ...]:
    """The models by strength; their intervals of ranks count who is surely better or worse, by the Holm-adjusted p-values of all pairs."""
    size = len(names)
    pairs = [(one, other) for one in range(size) for other in range(one)]
    errors = [math.sqrt(max(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j], 0.0)) for i, j in pairs]
    p_values = [two_sided((strengths[i] - strengths[j]) / error) if error else 1.0 for (i, j), error in zip(pairs, errors, strict=True)]
    better, worse = np.zeros(size, int), np.zeros(size, int)
    for (i, j), p_value in zip(pairs, holm(p_values), strict=True):
        if p_value < LEVEL:
            high, low = (i, j) if strengths[i] > strengths[j] else (j, i)
            better[low] += 1
            worse[high] += 1
    models = []
    for rank, place in enumerate(sorted(range(size), key=lambda each: (-strengths[each], names[each])), start=1):
        error = math.sqrt(covariance[place, place])
        logit = with_error(float(strengths[place]), error if place < size - 1 else None)
        count = sum(names[place] in (vote.first, vote.second) for vote in votes)
        models.append(Strength(names[place], logit, logit.scaled(ELO), rank, (1 + int(better[place]), size - int(worse[place])), count))
    return tuple(models)
