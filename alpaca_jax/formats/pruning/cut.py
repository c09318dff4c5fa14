"""A smaller model whose weights are read from a larger one's files."""

import dataclasses

import numpy as np

from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, weights, whole
from alpaca_jax.formats.pruning.kept import Kept, said
from alpaca_jax.model import llama
from alpaca_jax.model.tree import flatten


def cut(model: Pretrained, kept: Kept) -> Pretrained:
    """The smaller model; each of its weights is read from those of `model` when it is asked for."""
    before, after = model.architecture, kept.architecture(model.architecture)
    axes = {path: spec.axes for path, spec in flatten(llama.specs(before)).items()}
    sizes, group = weights(after), before.num_heads // before.num_kv_heads

    def piece(path: tuple[str, ...], place: int, source: Index, index: Index) -> np.ndarray:
        """A piece of one layer's weight, or of one that is in no layer; `source` says which, where the files stack layers."""
        own = axes[path][len(source) :]
        takes = [kept.along(axis, place, group) for axis in own]
        read = tuple(part if take is None else slice(None) for part, take in zip(index, takes, strict=True))
        weight = model.read(path, (*source, *read))
        for dim, (part, take) in enumerate(zip(index, takes, strict=True)):
            if take is not None:
                weight = np.take(weight, take[part], axis=len(source) + dim)
        return weight

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        first, *rest = whole(index, sizes[path].shape)
        if not sizes[path].name.stacked:
            return piece(path, 0, (), (first, *rest))
        target: np.ndarray | None = None
        places = range(first.start, first.stop)
        for number, place in enumerate(places):
            layer = kept.layers[place]
            one = piece(path, place, (slice(layer, layer + 1),), tuple(rest))
            if target is None:
                target = np.empty((len(places), *one.shape[1:]), one.dtype)
            target[number] = one[0]
        assert target is not None, (path, index)
        return target

    return dataclasses.replace(model, architecture=after, read=read, kept=kept, format=f"{model.format}, {said(before, kept)}")
