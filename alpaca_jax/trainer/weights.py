"""Which weights are matrices, which are frozen, and which one a leaf of the optimizer's state belongs to."""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError
from alpaca_jax.model.tree import Tree, by_name, flatten, unflatten

Fixed = dict[str, Tree]  # trees that no step changes, by their part in the objective
BASE = "base"  # the part of `fixed` that holds the model's frozen weights
ADAPTER = "adapter"  # the part of the trained weights that is put onto the base
SCORE = "score"  # the part that makes a reward of a hidden state


def is_matrix(name: str) -> bool:
    """Whether the weight with this last name is a matrix: a norm's scale and a bias are vectors, neither decayed nor orthogonalised."""
    return name != "scale" and not name.endswith("bias")


def name_of(path: Sequence[Any]) -> str:
    """The dotted path of the weight that a leaf of an optimizer's state belongs to: the dict keys its own path ends with."""
    keys: list[str] = []
    for entry in reversed(path):
        if not isinstance(entry, jax.tree_util.DictKey):
            break
        keys.append(str(entry.key))
    return ".".join(reversed(keys))


def split(tree: Tree, frozen: Sequence[str]) -> tuple[Tree, Tree]:
    """(trained, frozen): two nested dicts that share out the leaves; frozen is every weight whose dotted name a pattern matches.

    A UserError where a pattern matches nothing or every weight is frozen.
    """
    names = list(by_name(tree))
    for pattern in frozen:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"optimizer.frozen: {pattern} matches no weight{_nearest(pattern, names)}")
    matched = {name for pattern in frozen for name in fnmatch.filter(names, pattern)}
    if len(matched) == len(names):
        raise UserError(f"optimizer.frozen={list(frozen)} leaves nothing to train; the weights are {', '.join(names)}")
    leaves = flatten(tree)
    still = {path: leaf for path, leaf in leaves.items() if ".".join(path) in matched}
    return unflatten({path: leaf for path, leaf in leaves.items() if path not in still}), unflatten(still)


def join(one: Tree, other: Tree) -> Tree:
    """Both nested dicts in one; no leaf is in both."""
    return unflatten(flatten(one) | flatten(other))


def _nearest(pattern: str, names: Iterable[str]) -> str:
    groups = {f"{name.rsplit('.', depth)[0]}.*" for name in names for depth in range(1, name.count(".") + 1)}
    near = suggestion(pattern, [*names, *sorted(groups)])
    return near or f"; the weights are {', '.join(names)}"
