"""What teachers say of the targets of a store of examples, asked once and kept on disk as flat files."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from alpaca_jax.data.built import atomic_folder, naming_damage
from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.pack import Batch, best_fit, lay
from alpaca_jax.errors import UserError
from alpaca_jax.progress import track
from alpaca_jax.rundir import read_json, write_json
from alpaca_jax.train.distill import signals
from alpaca_jax.train.distill.signals import Told

FILE = "cache.json"  # written last
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Kept:
    """An array of a cache: its dtype, and its shape behind the number of targets."""

    dtype: str
    shape: tuple[int, ...] = ()


Ask = Callable[[Batch, int], Mapping[str, np.ndarray]]  # the arrays [rows, length, ...] of a batch, given also its number


def opened(folder: Path, key: Mapping[str, Any], store: ExampleStore) -> Told | None:
    """The store with the cache in `folder`; None where there is none. A UserError where it is another one's, or damaged."""
    if not (folder / FILE).is_file():
        return None
    described = read_json(folder / FILE)
    found = described.get("key", {})
    if differing := [name for name in {*found, *key} if found.get(name) != _plain(key).get(name)]:
        raise UserError(
            f"{folder} is a cache of other {', '.join(sorted(differing))} than this run's: give another objective.cache, or null for one "
            "that is named by what it holds"
        )
    with naming_damage(folder):
        starts = np.load(folder / "starts.npy")
        if len(starts) != len(store) + 1:
            raise ValueError(f"starts.npy has {len(starts) - 1} examples, not {len(store)}")
        arrays = {
            name: _mapped(folder / name, jnp.dtype(dtype), (int(starts[-1]), *shape))
            for name, (dtype, shape) in described["arrays"].items()
        }
    return Told(store, arrays, starts)


def build(folder: Path, key: Mapping[str, Any], store: ExampleStore, kept: Mapping[str, Kept], rows: int, length: int, ask: Ask) -> None:
    """Asks about all examples of the store, laid into batches [rows, length], and writes the cache to `folder`."""
    starts = signals.starts(store)
    total = int(starts[-1])
    with atomic_folder(folder) as building:
        arrays = {
            name: np.memmap(building / name, jnp.dtype(each.dtype), "w+", shape=(total, *each.shape))
            for name, each in kept.items()
            if total
        }
        places = best_fit(store.lengths, length)
        groups = [places[start : start + rows] for start in range(0, len(places), rows)]
        for number, group in enumerate(track(groups, "asking the teacher")):
            batch = lay([store.take(place) for place in group], rows, length)
            told = ask(batch, number)
            for row, segment, index in _laid(group):
                where = (batch["segments"][row] == segment) & (batch["weights"][row] > 0)
                for name, array in arrays.items():
                    array[starts[index] : starts[index + 1]] = told[name][row][where]
        for array in arrays.values():
            array.flush()
        np.save(building / "starts.npy", starts)
        write_json(
            building / FILE,
            {"key": _plain(key), "arrays": {name: [each.dtype, list(each.shape)] for name, each in kept.items()}, "targets": total},
        )


def _laid(group: list[list[int]]) -> Iterator[tuple[int, int, int]]:
    """(row, segment, example) of all examples of a batch."""
    for row, place in enumerate(group):
        for segment, index in enumerate(place, start=1):
            yield row, segment, index


def _mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    if not shape[0]:
        return np.zeros(shape, dtype)
    size = path.stat().st_size
    if size != (wanted := int(np.prod(shape)) * dtype.itemsize):
        raise ValueError(f"{path.name} has {size} bytes, not {wanted}")
    return np.memmap(path, dtype, "r", shape=shape)


def _plain(key: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(key))
