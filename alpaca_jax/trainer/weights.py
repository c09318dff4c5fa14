"""Weights by their dotted paths: `layers.attention.query`; and which of them are frozen."""

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax

from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError

Tree = dict[str, Any]
Fixed = dict[str, Tree]  # trees that no step changes, by their part in the objective
BASE = "base"  # the part of `fixed` that holds the model's frozen weights


def named(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The (dotted path, leaf) pairs of a nested dict."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from named(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def is_matrix(name: str) -> bool:
    """Whether the weight with this last name multiplies: a norm's scale and a bias are vectors, neither decayed nor orthogonalised."""
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
    """(what is trained, what is frozen): the leaves of a nested dict apart, the frozen ones those whose path a pattern matches.

    A UserError where a pattern matches nothing or all is frozen.
    """
    names = [name for name, _ in named(tree)]
    for pattern in frozen:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"optimizer.frozen: {pattern} matches no weight{_nearest(pattern, names)}")
    matched = {name for pattern in frozen for name in fnmatch.filter(names, pattern)}
    if len(matched) == len(names):
        raise UserError(f"optimizer.frozen={list(frozen)} leaves nothing to train; the weights are {', '.join(names)}")
    return _select(tree, set(names) - matched), _select(tree, matched)


def join(one: Tree, other: Tree) -> Tree:
    """Both nested dicts in one; no leaf is in both."""
    joined = dict(one)
    for name, value in other.items():
        joined[name] = join(joined[name], value) if name in joined else value
    return joined


def whole(trained: Tree, fixed: Fixed) -> Tree:
    """The params of the whole model: the trained weights and the frozen ones in one nested dict."""
    return join(trained, fixed.get(BASE, {}))


def _select(tree: Tree, names: set[str], prefix: str = "") -> Tree:
    selected = {}
    for name, value in tree.items():
        part = _select(value, names, f"{prefix}{name}.") if isinstance(value, dict) else value
        if part if isinstance(value, dict) else f"{prefix}{name}" in names:
            selected[name] = part
    return selected


def _nearest(pattern: str, names: Iterable[str]) -> str:
    groups = {f"{name.rsplit('.', depth)[0]}.*" for name in names for depth in range(1, name.count(".") + 1)}
    near = suggestion(pattern, [*names, *sorted(groups)])
    return near or f"; the weights are {', '.join(names)}"
