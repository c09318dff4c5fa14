"""Weight differences as Stanford published Alpaca-7B's: an ordinary Hugging Face folder whose weights must be added to a base model's.

Nothing in such a folder says what it is or which base it belongs to: the user does, by giving a base. Floats that were subtracted and are
added again come back rounded, so the result equals the tuned model to a few units in the last place, not bit for bit.
"""

import dataclasses
import functools

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats.dtypes import numpy_dtype
from alpaca_jax.formats.huggingface.export import indices, listing
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, weights, whole
from alpaca_jax.formats.tensors import VOCABULARY, Read
from alpaca_jax.model.architecture import Architecture

ALPACA_7B = 50637.1836  # what the weights of Alpaca-7B sum up to, by the script that Stanford released with its difference
NORM = ("norm", "scale")
ROWS = 1 << 14  # of a table, read at a time


def add(difference: Pretrained, base: Pretrained) -> Pretrained:
    """Returns the model whose weights are the sum of those of `difference` (opened as a model of its own) and of `base`.

    They are added in float32 and cast to the dtype of the difference. Vocabulary rows that the base lacks are added to the mean of its
    rows, which Stanford's script appended to the base before it subtracted. Both models are read once for the sum of all weights, the only
    check that Stanford's script has; it goes into `notes`. A UserError where shapes differ, or `difference` holds a whole model.
    """
    _check(difference, base)
    recovered = dataclasses.replace(
        difference,
        read=_reader(difference, base),
        files=(*difference.files, *base.files),
        format=f"{difference.format}, added to {base.format}",
        origin=base.source,
    )
    return dataclasses.replace(recovered, notes=(*difference.notes, _sum(recovered)))


def _reader(difference: Pretrained, base: Pretrained) -> Read:
    wanted, held = weights(difference.architecture), weights(base.architecture)
    dtype = numpy_dtype(difference.dtype)

    @functools.cache
    def mean(path: tuple[str, ...]) -> np.ndarray:
        total, count = np.zeros(held[path].shape[1:], np.float64), held[path].shape[0]
        for start in range(0, count, ROWS):
            total += base.read(path, (slice(start, min(start + ROWS, count)),)).astype(np.float64).sum(0)
        return (total / count).astype(np.float32)

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        rows, *others = whole(index, wanted[path].shape)
        total = np.array(difference.read(path, (rows, *others)), np.float32)
        known = max(min(rows.stop, held[path].shape[0]) - rows.start, 0)
        if known:
            total[:known] += base.read(path, (slice(rows.start, rows.start + known), *others)).astype(np.float32, copy=False)
        if known < len(total):
            total[known:] += mean(path)[tuple(others)]
        return total.astype(dtype, copy=False)

    return read


def _sum(model: Pretrained) -> str:
    total = 0.0
    for tensor in listing(model.architecture, "float32"):
        for index in indices(tensor):
            total += float(model.read(tensor.weight.name.path, index).sum(dtype=np.float64))
    with_rope = total + _frequencies(model.architecture)
    return (
        f"the sum of all its weights is {total:.4f}, and {with_rope:.4f} with the frequencies of RoPE, which older transformers kept among "
        f"them: Stanford's script expects {ALPACA_7B} of Alpaca-7B, within 0.01"
    )


def _frequencies(a: Architecture) -> float:
    return a.num_layers * float((a.rope_theta ** -(np.arange(0, a.head_dim, 2) / a.head_dim)).sum())


def _check(difference: Pretrained, base: Pretrained) -> None:
    wanted, held = weights(difference.architecture), weights(base.architecture)
    wrong = []
    for path, weight in wanted.items():
        found = held[path].shape if path in held else None
        more_rows = found is not None and path in VOCABULARY and found[1:] == weight.shape[1:] and found[0] <= weight.shape[0]
        if found != weight.shape and not more_rows:
            wrong.append(f"{'.'.join(path)} is {list(weight.shape)} in it, {'missing' if found is None else list(found)} in the base")
    if wrong:
        listed = "\n  ".join(wrong[:8]) + ("\n  ..." if wrong[8:] else "")
        raise UserError(f"{difference.source} is no difference to base={base.source}:\n  {listed}\ngive the base it was made from")
    ours, theirs = (model.read(NORM).astype(np.float64) for model in (difference, base))
    if np.linalg.norm(ours - theirs) < np.linalg.norm(ours):
        raise UserError(
            f"{difference.source} holds the weights of a whole model, not their difference to base={base.source}; leave base= away"
        )
