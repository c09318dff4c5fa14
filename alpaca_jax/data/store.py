"""The token store: tokenized examples end to end in three flat files, read through a memory map. Needs numpy only.

Facts of the examples, where they have any, are a fourth file; the examples of a group follow one another.
It is built once and never changed. So the processes of a machine share its pages, and a batch reads only its own tokens.
"""

from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alpaca_jax.data.example import Examples, Item

KINDS = {"ids": np.dtype(np.int32), "learnt": np.dtype(np.bool_)}
FACTS = "facts.npy"


def write(folder: Path, name: str, items: Iterable[Item]) -> int:
    """Writes `folder/name.ids`, `.learnt`, `.offsets.npy` and the facts, one example after another; returns the number of examples."""
    offsets, facts = array("q", [0]), dict[str, array]()
    with open(folder / f"{name}.ids", "wb") as ids, open(folder / f"{name}.learnt", "wb") as learnt:
        for example in (part for item in items for part in item.parts):
            ids.write(example.ids.astype(KINDS["ids"], copy=False).tobytes())
            learnt.write(example.learnt.astype(KINDS["learnt"], copy=False).tobytes())
            offsets.append(offsets[-1] + len(example.ids))
            for fact, value in example.facts.items():
                facts.setdefault(fact, array("f")).append(value)
    np.save(folder / f"{name}.offsets.npy", np.frombuffer(offsets, np.int64))
    if facts:
        table = np.zeros(len(offsets) - 1, [(fact, np.float32) for fact in facts])
        for fact, values in facts.items():
            table[fact] = values
        np.save(folder / f"{name}.{FACTS}", table)
    return len(offsets) - 1


def read(folder: Path, name: str) -> Examples:
    """Returns the examples that `write` wrote, mapped into memory; a ValueError where the sizes of the files don't match."""
    offsets = np.load(folder / f"{name}.offsets.npy")
    flat = {}
    for kind, dtype in KINDS.items():
        path = folder / f"{name}.{kind}"
        size = path.stat().st_size
        if size != int(offsets[-1]) * dtype.itemsize:
            raise ValueError(f"{path.name} has {size} bytes, not {int(offsets[-1]) * dtype.itemsize}")
        # An empty file can't be mapped.
        flat[kind] = np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)
    facts = _facts(folder / f"{name}.{FACTS}", len(offsets) - 1)
    return Examples(**flat, offsets=offsets, facts=facts)


def _facts(path: Path, examples: int) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    table = np.load(path)
    if len(table) != examples:
        raise ValueError(f"{path.name} has the facts of {len(table)} examples, not of {examples}")
    return {fact: table[fact] for fact in table.dtype.names}
