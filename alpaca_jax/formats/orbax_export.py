"""Writes a model as a training folder of ours: `model/` beside an Orbax checkpoint of step 0, from which `train` starts.

Orbax takes a tree of arrays and copies all of it before it writes. Here the leaves are promises: each is read when its turn to be written
comes, so that two stacked weights are in memory at a time, and not the model twice.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from alpaca_jax import checkpoint
from alpaca_jax.errors import UserError
from alpaca_jax.formats import native
from alpaca_jax.formats.ahead import ahead
from alpaca_jax.formats.dtypes import Dtype, finite, numpy_dtype
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Weight, weights
from alpaca_jax.formats.partial import Partial, told_when_full
from alpaca_jax.model.tree import Tree, unflatten


class _Promise:
    """A weight that is read when it is written."""

    def __init__(self, model: Pretrained, weight: Weight, dtype: Dtype) -> None:
        self.path, self.shape, self.dtype = weight.name.path, weight.shape, numpy_dtype(dtype)
        self._model = model

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        with np.errstate(over="ignore"):  # said below
            weight = np.ascontiguousarray(self._model.read(self.path), dtype=self.dtype)
        if not finite(weight):
            raise UserError(f"{self._model.source}: the weight {'.'.join(self.path)} has NaN or infinities in {self.dtype.name}")
        return weight


def export(
    folder: Path,
    model: Pretrained,
    dtype: Dtype | None = None,
    extra: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda name: None,
    plan: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes `folder` (absent or empty until then), whole or not at all; `progress(path)` is called after each weight.

    A UserError where a weight is not finite in `dtype` (default: as stored), or the disk has no room.
    """
    promises = {path: _Promise(model, weight, dtype or model.dtype) for path, weight in weights(model.architecture).items()}
    size = sum(promise.nbytes for promise in promises.values())
    partial = Partial(folder, dict(plan), size)
    arrays = partial.folder / "checkpoints" / "0"
    try:
        with told_when_full(folder):
            checkpoint.remove([arrays])  # of one that was killed
            native.write(partial.folder / "model", model.architecture, model.tokenizer, model.eos_ids, model.origin or model.source)
            _save(arrays, unflatten(promises), progress)
            checkpoint.seal(arrays, 0, {})
            for name, text in extra.items():
                (partial.folder / name).write_text(text, encoding="utf-8")
        partial.finish()
    except UserError:
        partial.discard()
        raise


def _save(folder: Path, tree: Tree, progress: Callable[[str], None]) -> None:
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    class Handler(type_handlers.NumpyHandler):
        """Writes one promise after the other, as Orbax writes numpy arrays."""

        async def serialize(self, values: Sequence[_Promise], infos: Sequence[Any], args: Sequence[Any] | None = None) -> list[Any]:
            read = ahead(promise.read() for promise in values)
            for promise, weight, info, arg in zip(values, read, infos, args or [ocp.SaveArgs()] * len(values), strict=True):
                for written in await super().serialize([weight], [info], [arg]):
                    written.result()
                progress(".".join(promise.path))
            return []

    registry = type_handlers.create_type_handler_registry((_Promise, Handler(deepcopy_host_arrays=False)))
    # Compression holds two more copies of a weight in memory while it is written.
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(params=handler)) as writer:
        writer.save(folder.absolute(), args=ocp.args.Composite(params=ocp.args.PyTreeSave(tree)))
