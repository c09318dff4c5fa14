"""The survey of a set of records, made once: what kinds there are, what is odd about them, their copies, and how they are split."""

import dataclasses
import functools
from array import array
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from alpaca_jax import records
from alpaca_jax.data.built import atomic_folder, fetch_copy, naming_damage, store_copy
from alpaca_jax.data.origin import Origin, digest
from alpaca_jax.progress import track
from alpaca_jax.rundir import read_json, write_json

READING = 3  # of records; a new number surveys all of them anew
COUNTS = "survey.json"
KEY = "key "  # before the name of a key that nobody knows, in `counted`


@dataclasses.dataclass(frozen=True)
class Split:
    """Which records are held out, bool [N], and whether they are others than before copies were kept together."""

    heldout: np.ndarray
    moved: bool


@dataclasses.dataclass(frozen=True)
class Survey:
    """`texts` uint64 [N] are equal where records are copies, `ranks` uint64 [N] order them for the split; `counted` as `records.stream`."""

    texts: np.ndarray
    ranks: np.ndarray
    counted: Mapping[str, int]

    @property
    def changed(self) -> bool:
        """Whether an earlier version read some of the records in another way."""
        return self.counted.get("changed", 0) > 0

    @property
    def preferences(self) -> int:
        """Records of pairs, and of answers that are marked as wanted or not; their `texts` are equal where the same was asked."""
        return sum(self.counted.get(kind, 0) for kind in ("pairs", "wanted", "unwanted"))

    @functools.cached_property
    def copies(self) -> int:
        """Records whose text is that of an earlier one."""
        return len(self.texts) - len(np.unique(self.texts))

    @property
    def unknown_keys(self) -> dict[str, int]:
        """How many records have each of the keys that nobody knows."""
        return {name.removeprefix(KEY): count for name, count in self.counted.items() if name.startswith(KEY)}

    def split(self, heldout: int) -> Split | None:
        """Returns which records are held out: the `heldout` lowest ranks, with copies on one side; None for none."""
        if not heldout:
            return None
        chosen = records.heldout_ids(self.ranks, heldout, self.texts)
        return Split(chosen, not np.array_equal(chosen, records.heldout_ids(self.ranks, heldout)))


def of(origin: Origin, cache: Path, copies: Path | None = None) -> Survey:
    """Returns the survey of the origin's records, from `cache` where it was made before; `copies`: a store with copies of the cache."""
    name = f"surveys/{digest([origin.fingerprint, READING])}"
    folder, copy = cache / name, copies and copies / name
    if not folder.is_dir() and not fetch_copy(copy, folder, COUNTS):
        with atomic_folder(folder) as building:
            _make(origin, building)
    store_copy(folder, copy, COUNTS)
    with naming_damage(folder):
        counted = read_json(folder / COUNTS)
        texts, ranks = (np.fromfile(folder / name, np.uint64) for name in ("texts", "ranks"))
        if not len(texts) == len(ranks) == counted["records"]:
            raise ValueError(f"{len(texts)} texts and {len(ranks)} ranks of {counted['records']} records")
        return Survey(texts, ranks, counted)


def _make(origin: Origin, folder: Path) -> None:
    counted, texts, ranks = Counter[str](), array("Q"), array("Q")
    origin.check()
    for record in track(origin.stream(counted), "reading the records", None):
        texts.append(int(record.text_id(), 16))
        ranks.append(records.rank(record))
        counted["records"] += 1
        counted["documents"] += not record.instruction
        counted["shown"] += len(record.shown)
        counted["reasoning"] += any(record.reasoning)
        counted["several_turns"] += bool(record.turns)
        counted["pairs"] += record.rejected is not None
        counted["wanted"] += record.desired is True
        counted["unwanted"] += record.desired is False
    for name, numbers in (("texts", texts), ("ranks", ranks)):
        np.frombuffer(numbers, np.uint64).tofile(folder / name)
    write_json(folder / COUNTS, counted)
