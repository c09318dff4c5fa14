"""The data sheet: facts about the records and the lengths of their examples."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from alpaca_jax import records
from alpaca_jax.data import origin
from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.origin import Files
from alpaca_jax.errors import UserError
from alpaca_jax.records import Manifest

AT_ONCE = 4096  # examples read together


@dataclasses.dataclass(frozen=True)
class Facts:
    """Counts over the records."""

    records: int = 0
    with_input: int = 0
    with_system: int = 0
    several_turns: int = 0
    documents: int = 0  # texts for pre-training, without an instruction
    empty_output: int = 0
    same_instruction: int = 0  # as in an earlier record, whatever the input
    same_prompt: int = 0  # as in an earlier record, including input and system message
    pairs: int = 0  # records with a rejected answer
    wanted: int = 0  # marked answers
    unwanted: int = 0
    longer_chosen: int = 0  # pairs whose chosen answer has more characters than the rejected one


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens of each example, int64 [N]: all of them, context, and learnt ones."""

    full: np.ndarray
    read: np.ndarray
    learnt: np.ndarray

    def table(self) -> dict[str, dict[str, float]]:
        """Returns mean, median, p95, p99, max and total of each kind."""
        kinds = {"full": self.full, "read": self.read, "learnt": self.learnt}
        return {name: _figures(lengths) for name, lengths in kinds.items()}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where records come from, and our manifest beside them, if there is one."""

    name: str
    where: tuple[str, ...]
    manifest: Manifest | None
    changed: bool  # whether the file is no longer the one that the manifest describes


def describe(name: str, where: origin.Origin) -> Source:
    """Returns the files of a source and the manifest beside them."""
    if not isinstance(where, Files):
        return Source(name, (where.fingerprint,), None, False)
    paths = tuple(str(path) for path in where.paths)
    file = where.paths[0].parent / records.MANIFEST
    try:
        manifest = Manifest.read(file) if file.is_file() else None
    except UserError:  # a file of another project with that name
        manifest = None
    return Source(name, paths, manifest, manifest is not None and manifest.sha256 != records.sha256(where.paths))


def facts(stream: Iterable[records.Record]) -> Facts:
    """Returns the counts over all records."""
    counted = Counter[str]()
    instructions, prompts = set[int](), set[int]()
    for record in stream:
        prompt = (record.system, record.instruction, record.input)
        document = not record.instruction
        counted.update(
            records=1,
            with_input=bool(record.input),
            with_system=bool(record.system),
            several_turns=bool(record.turns),
            documents=document,
            empty_output=not record.output,
            pairs=record.rejected is not None,
            wanted=record.desired is True,
            unwanted=record.desired is False,
            longer_chosen=record.rejected is not None and len(record.answer) > len(record.rejected),
            same_instruction=not document and hash(record.instruction) in instructions,
            same_prompt=not document and hash(prompt) in prompts,
        )
        if not document:
            instructions.add(hash(record.instruction))
            prompts.add(hash(prompt))
    return Facts(**counted)


def lengths(store: ExampleStore) -> Lengths:
    """Returns the lengths of all examples of the store; reads their loss masks."""
    learnt = np.zeros(len(store), np.int64)
    for start in range(0, len(store), AT_ONCE):
        stop = min(start + AT_ONCE, len(store))
        learnt[start:stop] = [int(example.learnt.sum()) for example in store.take(range(start, stop))]
    full = np.asarray(store.lengths, np.int64)
    return Lengths(full, full - learnt, learnt)


def histogram(values: np.ndarray, bins: int = 12) -> list[tuple[int, int, int]]:
    """Returns (from, to, count) for equal ranges of whole numbers; the last range has all values from p99 up."""
    top = max(int(np.percentile(values, 99)), bins)
    width = -(-top // bins)
    edges = range(0, width * bins, width)
    counts = np.bincount(np.minimum(values // width, bins - 1), minlength=bins).tolist()
    last = max(int(values.max()), edges[-1] + width - 1)
    tops = [*(edge + width - 1 for edge in edges[:-1]), last]
    return list(zip(edges, tops, counts, strict=True))


def _figures(lengths: np.ndarray) -> dict[str, float]:
    quantiles: Sequence[Any] = np.percentile(lengths, [50, 95, 99]).tolist()
    return {
        "mean": float(lengths.mean()),
        **dict(zip(("median", "p95", "p99"), quantiles, strict=True)),
        "max": int(lengths.max()),
        "total": int(lengths.sum()),
    }
