"""Which models have finite strengths together: those that are linked by wins both ways, over any number of steps (Ford 1957)."""

import dataclasses
from typing import Literal

import numpy as np

Reason = Literal["never met", "won every comparison", "lost every comparison", "not linked"]


@dataclasses.dataclass(frozen=True)
class Apart:
    """Models that can't be ranked with the anchor, and why, in a word and in a sentence that can stand alone."""

    names: tuple[str, ...]
    reason: Reason
    sentence: str


def linked(names: list[str], beats_MM: np.ndarray, anchor: str) -> tuple[list[str], list[Apart]]:
    """The models that are linked with the anchor, it included, and the others in groups; `beats_MM[i, j]` is how often i won against j.

    A tie is half a win of either. Both lists are in the order of `names`.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    graph = csr_matrix(beats_MM)
    groups = connected_components(graph, connection="strong")[1]
    met = connected_components(graph, connection="weak")[1]
    home = names.index(anchor)
    apart = []
    for group in dict.fromkeys(groups):
        members = np.flatnonzero(groups == group)
        if group != groups[home] and met[members[0]] == met[home]:
            apart.append(_one_sided(names, beats_MM, members, home))
    for strangers in (np.flatnonzero(met == each) for each in dict.fromkeys(met) if each != met[home]):
        named = tuple(names[place] for place in strangers)
        sentence = f"{', '.join(named)}: never met {anchor} or a model that met it, so nothing says which is better."
        apart.append(Apart(named, "never met", sentence))
    return [names[place] for place in np.flatnonzero(groups == groups[home])], apart


def _one_sided(names: list[str], beats_MM: np.ndarray, members: np.ndarray, home: int) -> Apart:
    """Why a group that met the anchor's isn't linked with it: it only won, or only lost, on every way between them."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order

    named = tuple(names[place] for place in members)
    chains = [breadth_first_order(csr_matrix(wins), members[0], return_predecessors=False) for wins in (beats_MM, beats_MM.T)]
    below, above = (np.setdiff1d(chain, members) for chain in chains)
    listed = ", ".join(named)
    if home in below:
        won = beats_MM[np.ix_(members, below)].sum()
        against = ", ".join(names[place] for place in below if beats_MM[members, place].sum())
        sentence = f"{listed}: won {won:g}:0 against {against}, so how much better than {names[home]} can't be bounded."
        return Apart(named, "won every comparison", sentence)
    if home in above:
        lost = beats_MM[np.ix_(above, members)].sum()
        against = ", ".join(names[place] for place in above if beats_MM[place, members].sum())
        sentence = f"{listed}: lost 0:{lost:g} against {against}, so how much worse than {names[home]} can't be bounded."
        return Apart(named, "lost every comparison", sentence)
    sentence = f"{listed}: no chain of wins leads to {names[home]} or from it, so nothing says which is better."
    return Apart(named, "not linked", sentence)
