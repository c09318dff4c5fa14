"""The low-rank change of one matrix: W + scale * B A.

LoRA: Hu et al. 2021, arXiv:2106.09685. DoRA: Liu et al. 2024, arXiv:2402.09353.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from alpaca_jax.formats.names import Index, Name, whole

_ROWS = 1 << 8  # rows of `up` that are compared with zero at a time
_BLOCK = 1 << 24  # values of a change that are computed at a time
Load = Callable[[str, Index], np.ndarray]
ALL = slice(None)


@dataclasses.dataclass(frozen=True)
class Lora:
    """The names of the tensors `down` [r, inputs], `up` [outputs, r] and, for DoRA, `magnitude` [outputs] in a file.

    The rows of an `embedding` are its inputs, the tokens: its change is (B A) transposed.
    """

    load: Load
    down: str
    up: str
    scale: float
    magnitude: str | None = None
    embedding: bool = False
    rows: int = 0  # of `up`

    def merged(self, plain: Callable[[Index], np.ndarray], name: Name, shape: tuple[int, ...], index: Index) -> np.ndarray:
        """Returns the piece `index` of the changed weight (of one layer, in our layout and `shape`), computed in float32.

        `plain(index)` reads the weight itself; the result has its dtype.
        """
        index = whole(index, shape)
        if self.magnitude is not None:
            return self._scaled(plain, name, shape, index)
        merged = np.array(plain(index))
        inner = math.prod(part.stop - part.start for part in index[1:])
        rows = max(1, _BLOCK // max(1, inner))
        for start in range(index[0].start, index[0].stop, rows):
            block = slice(start, min(start + rows, index[0].stop))
            here = slice(block.start - index[0].start, block.stop - index[0].start)
            merged[here] = merged[here].astype(np.float32) + self._change(name, shape, (block, *index[1:]))
        return merged

    def changes_nothing(self) -> bool:
        """Whether `up` is zero, as before training, and nothing else is changed; reads `up` until its first other value."""
        if self.magnitude is not None:
            return False
        return not any(self.load(self.up, (slice(start, min(start + _ROWS, self.rows)),)).any() for start in range(0, self.rows, _ROWS))

    def _change(self, name: Name, shape: tuple[int, ...], index: Index) -> np.ndarray:
        return name.read(self._their_change, shape, index)

    def _their_change(self, index: Index) -> np.ndarray:
        rows, columns = index
        if self.embedding:
            left, right = self._float(self.down, (ALL, rows)).T, self._float(self.up, (columns, ALL)).T
        else:
            left, right = self._float(self.up, (rows, ALL)), self._float(self.down, (ALL, columns))
        return left @ right * np.float32(self.scale)

    def _float(self, name: str, index: Index) -> np.ndarray:
        return self.load(name, index).astype(np.float32)

    def _scaled(self, plain: Callable[[Index], np.ndarray], name: Name, shape: tuple[int, ...], index: Index) -> np.ndarray:
        """DoRA's weight: each output's vector over all inputs is scaled to its magnitude."""
        assert self.magnitude is not None
        # The rows of the output table, which has no `inputs`, are its outputs.
        axes = (1,) if name.inputs is None else tuple(range(name.inputs))
        outputs = tuple(axis for axis in range(len(shape)) if axis not in axes)
        wide = tuple(slice(0, shape[axis]) if axis in axes else part for axis, part in enumerate(index))
        weight = plain(wide)
        changed = weight.astype(np.float32) + self._change(name, shape, wide)
        norm = np.sqrt(np.square(changed).sum(axes, keepdims=True))
        magnitude = self._float(self.magnitude, ()).reshape([shape[axis] for axis in outputs])[tuple(index[axis] for axis in outputs)]
        changed *= np.expand_dims(magnitude, axes) / norm
        return changed[tuple(part if axis in axes else ALL for axis, part in enumerate(index))].astype(weight.dtype)
