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
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from alpaca_jax.scores.statistics.estimate import LEVEL, Estimate, two_sided, with_error
from alpaca_jax.scores.statistics.logistic import fit
from alpaca_jax.scores.statistics.paired import holm

ELO = 400 / math.log(10)  # Elo points a logit
Cluster = Literal["prompt", "voter"]
Reason = Literal["never met", "won every comparison", "lost every comparison"]


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
class Apart:
    """Models that can't be ranked with the anchor, and why."""

    names: tuple[str, ...]
    reason: Reason
    sentence: str


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


def last_votes(votes: Iterable[Vote]) -> list[Vote]:
    """The last vote of each voter on each prompt and pair of models, whichever way they were shown: who votes again has changed their mind."""
    last: dict[tuple[str, str, frozenset[str]], Vote] = {}
    for vote in votes:
        last[vote.voter, vote.prompt, frozenset((vote.first, vote.second))] = vote
    return list(last.values())


def bradley_terry(votes: Sequence[Vote], anchor: str, position: bool = True, clusters: Sequence[Cluster] = ("prompt", "voter")) -> Ranking:
    """The ranking of all models in `votes` with the anchor at 0; ValueError where no vote is about the anchor.

    Without `position` the first place counts for nothing, and where each pair is shown in one order only that is the better model. Standard
    errors are clustered by prompt, by voter, or by both (votes that share either depend on each other); a voter who votes once and a single
    voter tell nothing about how votes of one hang together, so one voter alone is left out of the clusters.
    """
    # Sorted, so that the order of votes can't change the last bit.
    votes = sorted(votes, key=dataclasses.astuple)
    names = sorted({name for vote in votes for name in (vote.first, vote.second)})
    if anchor not in names:
        raise ValueError(f"the anchor {anchor} is in no vote; there are votes on {', '.join(names) or 'nothing'}")
    ranked, apart = _linked(votes, names, anchor)
    used = [vote for vote in votes if vote.first in ranked and vote.second in ranked]
    counts = {"prompts": len({vote.prompt for vote in used}), "voters": len({vote.voter for vote in used})}
    if len(ranked) == 1:
        alone = Strength(anchor, Estimate(0, None, None, None), Estimate(0, None, None, None), 1, (1, 1), 0)
        return Ranking(anchor, (alone,), None, "nothing is ranked", tuple(apart), len(used), **counts)
    free = [name for name in ranked if name != anchor]
    y = np.array([vote.outcome for vote in used])
    pairs = np.array([[(vote.first == name) - float(vote.second == name) for name in free] for vote in used])
    solved = fit(np.column_stack([pairs, np.ones(len(used))]), y) if position else None
    note = "" if solved else "the first place decides the votes: no finite position fits them" if position else "not asked for"
    with_position = solved is not None
    solved = solved or fit(pairs, y)
    assert solved is not None, "models that are linked by wins both ways have finite strengths"
    covariance = solved.sandwich(*_clusterings(used, clusters))
    place = with_error(float(solved.weights[-1]), math.sqrt(covariance[-1, -1])) if with_position else None
    size = len(free)
    models = _ranked([*free, anchor], np.append(solved.weights[:size], 0.0), np.pad(covariance[:size, :size], (0, 1)), used)
    return Ranking(anchor, models, place, note, tuple(apart), len(used), **counts)


def _linked(votes: Sequence[Vote], names: list[str], anchor: str) -> tuple[list[str], list[Apart]]:
    """The models that each beat and are beaten by, over any number of steps, the anchor; and the others by why they aren't."""
    number = {name: place for place, name in enumerate(names)}
    beats = np.zeros((len(names), len(names)))
    for vote in votes:
        beats[number[vote.first], number[vote.second]] += vote.outcome
        beats[number[vote.second], number[vote.first]] += 1 - vote.outcome
    strong, weak = (connected_components(csr_matrix(beats), connection=kind)[1] for kind in ("strong", "weak"))
    home = number[anchor]
    apart = []
    for group in dict.fromkeys(strong[np.arange(len(names)) != home]):
        members = np.flatnonzero(strong == group)
        if group != strong[home] and weak[members[0]] == weak[home]:
            apart.append(_separated(names, members, beats, np.flatnonzero(strong == strong[home])))
    for group in dict.fromkeys(weak):
        if group != weak[home]:
            strangers = tuple(names[place] for place in np.flatnonzero(weak == group))
            sentence = f"{', '.join(strangers)}: never met {anchor} or a model that it met, so nothing says which is better."
            apart.append(Apart(strangers, "never met", sentence))
    return [names[place] for place in np.flatnonzero(strong == strong[home])], apart


def _separated(names: list[str], members: np.ndarray, beats: np.ndarray, home: np.ndarray) -> Apart:
    """Why a group that met the others isn't linked with the anchor's: it won (or lost) everything on the way to it."""
    others = np.setdiff1d(np.arange(len(names)), members)
    won, lost = float(beats[np.ix_(members, others)].sum()), float(beats[np.ix_(others, members)].sum())
    named = tuple(names[place] for place in members)
    above = _reaches(beats, members[0], home[0])
    reason: Reason = "won every comparison" if above else "lost every comparison"
    sentence = (
        f"{', '.join(named)}: {reason} that links {'it' if len(named) == 1 else 'them'} with the ranked models ({won:g}:{lost:g} against all others), "
        f"so {'it is' if len(named) == 1 else 'they are'} {'better' if above else 'worse'} by an amount that these votes can't bound."
    )
    return Apart(named, reason, sentence)


def _reaches(beats: np.ndarray, start: int, end: int) -> bool:
    """Whether a chain of wins leads from one model to another."""
    reached, grown = {start}, {start}
    while grown:
        grown = {int(place) for one in grown for place in np.flatnonzero(beats[one])} - reached
        reached |= grown
    return end in reached


def _clusterings(votes: Sequence[Vote], clusters: Sequence[Cluster]) -> list[np.ndarray]:
    labels = [np.unique([getattr(vote, cluster) for vote in votes], return_inverse=True)[1] for cluster in dict.fromkeys(clusters)]
    return [each for each in labels if each.max() > 0] or [np.arange(len(votes))]


def _ranked(names: list[str], strengths: np.ndarray, covariance: np.ndarray, votes: Sequence[Vote]) -> tuple[Strength, ...]:
    """The models by strength. An interval of ranks counts the models that are surely better or worse, by all pairs' Holm-adjusted p-values."""
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
