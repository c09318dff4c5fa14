"""Nested dicts of weights, seen as flat ones: by path, `("layers", "mlp", "up")`, or by name, `layers.mlp.up`.

A leaf is whatever is not a dict, also where JAX would look inside: a spec, a sharding, optax's place of a masked weight. Order is kept.
"""

from collections.abc import Callable, Mapping
from typing import Any

Tree = dict[str, Any]
Path = tuple[str, ...]


def flatten(tree: Tree) -> dict[Path, Any]:
    """The leaves by their paths."""
    leaves: dict[Path, Any] = {}
    for key, value in tree.items():
        leaves |= {(key, *path): leaf for path, leaf in flatten(value).items()} if isinstance(value, dict) else {(key,): value}
    return leaves


def unflatten(leaves: Mapping[Path, Any]) -> Tree:
    """The nested dict with these leaves."""
    tree: Tree = {}
    for (*parents, last), leaf in leaves.items():
        below = tree
        for key in parents:
            below = below.setdefault(key, {})
        below[last] = leaf
    return tree


def map_with_path(function: Callable[[Path, Any], Any], tree: Tree) -> Tree:
    """The nested dict with `function(path, leaf)` in the place of each leaf."""
    return unflatten({path: function(path, leaf) for path, leaf in flatten(tree).items()})


def by_name(tree: Tree) -> dict[str, Any]:
    """The leaves by their dotted names."""
    return {".".join(path): leaf for path, leaf in flatten(tree).items()}
