"""The families of optimizers: what turns a gradient into a direction, before decay and learning rate.

Layers are stacked along the leading axis of each weight below `layers`. What needs a whole matrix (Adafactor's row and column means,
Muon's orthogonalisation) is computed for each layer alone, with heads and head_dim merged into one dimension.
"""

import math
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from alpaca_jax.model.tree import Tree, map_with_path
from alpaca_jax.trainer.weights import is_matrix

MUON_RMS = 0.2  # about AdamW's own, so that one learning rate suits both kinds of weights (Liu et al. 2025, arXiv:2502.16982)
STACKED = "layers"


def adamw(betas: tuple[float, float], eps: float) -> optax.GradientTransformation:
    """Adam's direction (Kingma and Ba 2015, arXiv:1412.6980)."""
    return optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=eps)


def lion(betas: tuple[float, float]) -> optax.GradientTransformation:
    """The sign of a momentum (Chen et al. 2023, arXiv:2302.06675): each weight moves by the learning rate, so take a tenth of AdamW's."""
    return optax.scale_by_lion(b1=betas[0], b2=betas[1])


def adafactor(momentum: float | None) -> optax.GradientTransformation:
    """Second moments as the product of row and column means (Shazeer and Stern 2018, arXiv:1804.04235), the step relative to the weight.

    A matrix has one row and one column of state, unless a dimension is below 128; momentum, where wanted, is as large as the weights.
    """
    scaled = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms())
    by_layer = optax.partition({STACKED: _each_layer(scaled), "rest": scaled}, _is_stacked)
    return by_layer if momentum is None else optax.chain(by_layer, optax.ema(momentum, debias=False))


def muon(momentum: float, betas: tuple[float, float], eps: float) -> optax.GradientTransformation:
    """The orthogonalised momentum of each layer's matrices (Jordan et al. 2024, kellerjordan.github.io/posts/muon); Adam's for the rest."""
    orthogonal = optax.chain(scale_by_muon(beta=momentum, weight_dimension_numbers=_matrices), optax.stateless(_scale_to_rms))
    return optax.partition({"muon": orthogonal, "adam": adamw(betas, eps)}, _muon_or_adam)


def _muon_or_adam(tree: Tree) -> Tree:
    return map_with_path(lambda path, _: "muon" if _matrix(path) else "adam", tree)


def _matrix(path: tuple[str, ...]) -> MuonDimensionNumbers | None:
    """Which dimensions of a stacked weight are the input and the output of its product; None for a vector and outside the layers."""
    if path[0] != STACKED or not is_matrix(path[-1]):
        return None
    inputs = {"out": (1, 2)}.get(path[-1], (1,))
    outputs = {"query": (2, 3), "key": (2, 3), "value": (2, 3), "out": (3,)}.get(path[-1], (2,))
    return MuonDimensionNumbers(inputs, outputs)


def _matrices(tree: Tree) -> Tree:
    return map_with_path(lambda path, leaf: leaf if isinstance(leaf, optax.MaskedNode) else _matrix(path), tree)


def _scale_to_rms(updates: Tree, _: Any) -> Tree:
    def scale(path: tuple[str, ...], update: Any) -> Any:
        if isinstance(update, optax.MaskedNode):
            return update
        numbers = _matrix(path)
        assert numbers is not None, path
        fans = [math.prod(update.shape[dim] for dim in dims) for dims in numbers]
        return update * (MUON_RMS * math.sqrt(max(fans)))

    return map_with_path(scale, updates)


def _each_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on each layer's weights alone, every one of them a matrix [in, out] or a vector; its state is stacked like the weights."""

    def init(params: Tree) -> Any:
        return jax.vmap(inner.init)(_merged(params)) if jax.tree.leaves(params) else inner.init(params)

    def update(updates: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        if not jax.tree.leaves(updates):  # every layer is frozen
            return updates, state
        new, state = jax.vmap(inner.update)(_merged(updates), state, _merged(params))
        return jax.tree.map(lambda one, like: one.reshape(like.shape), new, updates), state

    return optax.GradientTransformation(init, update)


def _merged(tree: Tree) -> Tree:
    def merge(path: tuple[str, ...], leaf: Any) -> Any:
        numbers = _matrix(path)
        if isinstance(leaf, optax.MaskedNode):
            return leaf
        if numbers is None:
            return leaf.reshape(leaf.shape[0], -1)  # heads of a bias
        return leaf.reshape(leaf.shape[0], *(math.prod(leaf.shape[dim] for dim in dims) for dims in numbers))

    return map_with_path(merge, tree)


def _is_stacked(tree: Tree) -> Tree:
    return map_with_path(lambda path, _: STACKED if path[0] == STACKED else "rest", tree)
