"""Which parts of a model a smaller one consists of."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from alpaca_jax.config import configclass
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.ranges import Natural

Numbers = tuple[Natural, ...]


@configclass
class Kept:
    """The numbers of the layers, channels, key/value heads and neurons that stay, each in order; None: all of them.

    Query heads stay with the key/value head that they share. Heads and neurons are those of each kept layer, as many in all of them.
    """

    layers: Numbers
    channels: Numbers | None = None  # of the residual stream: hidden_size
    heads: tuple[Numbers, ...] | None = None  # num_kv_heads
    neurons: tuple[Numbers, ...] | None = None  # intermediate_size

    def architecture(self, a: Architecture) -> Architecture:
        """The sizes of what is left of a model with the sizes `a`."""
        kept = a.keeping(self.layers)
        heads = a.num_kv_heads if self.heads is None else len(self.heads[0])
        return dataclasses.replace(
            kept,
            hidden_size=a.hidden_size if self.channels is None else len(self.channels),
            num_kv_heads=heads,
            num_heads=heads * (a.num_heads // a.num_kv_heads),
            intermediate_size=a.intermediate_size if self.neurons is None else len(self.neurons[0]),
        )

    def along(self, axis: str, place: int, group: int) -> np.ndarray | None:
        """The places along a logical axis that stay in the kept layer `place`, whose heads share keys by `group`; None: all."""
        if axis == "embed" and self.channels is not None:
            return np.array(self.channels)
        if axis == "mlp" and self.neurons is not None:
            return np.array(self.neurons[place])
        if self.heads is None or axis not in ("heads", "kv_heads"):
            return None
        heads = np.array(self.heads[place])
        return heads if axis == "kv_heads" else (heads[:, None] * group + np.arange(group)).ravel()


def said(a: Architecture, kept: Kept) -> str:
    """In words, what is left of a model with the sizes `a`."""
    after = kept.architecture(a)
    gone = sorted(set(range(a.num_layers)) - set(kept.layers))
    parts = [f"{after.num_layers} of {a.num_layers} layers (without {ranges(gone)})"] if gone else []
    sizes = (
        ("channels", after.hidden_size, a.hidden_size),
        ("heads", after.num_heads, a.num_heads),
        ("neurons", after.intermediate_size, a.intermediate_size),
    )
    parts += [f"{now:,} of {then:,} {name}" for name, now, then in sizes if now != then]
    return ", ".join(parts) or "all of it"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in order, as in "1, 3-5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
