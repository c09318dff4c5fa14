"""The reference's log-probability of each answer: computed once, by the weights that the run starts from, and kept on disk.

So a run holds no second model, and a sweep computes them once. With an adapter these weights are the base under it.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from alpaca_jax.data.built import atomic_folder, naming_damage
from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.pack import Batch, best_fit, lay
from alpaca_jax.distributed import array_from_lead, from_lead
from alpaca_jax.model.llama import Params
from alpaca_jax.progress import track
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Read
from alpaca_jax.trainer.objectives.preference import REAL, SLOTS, answer_logps, segment_answers
from alpaca_jax.trainer.objectives.sft import READS as TOKENS

READS: dict[str, Read] = TOKENS | {REAL: SLOTS}
AXES = {name: read.axes for name, read in READS.items()}


def kept(folder: Path, stores: Mapping[str, ExampleStore], compute: Callable[[ExampleStore], np.ndarray]) -> dict[str, np.ndarray]:
    """The log-probabilities of each store's answers, float32 [N, parts], from `folder`; computed and written there where they are absent.

    In a job of several processes the lead's folder counts, and all compute together.
    """
    if from_lead({"present": float(folder.is_dir())})["present"]:
        empty = {name: np.zeros((len(store), store.features.parts), np.float32) for name, store in stores.items()}
        with naming_damage(folder):
            found = {name: np.load(folder / f"{name}.npy") for name in stores} if folder.is_dir() else empty
            assert all(found[name].shape == empty[name].shape for name in stores), "another number of answers"
        return {name: array_from_lead(table) for name, table in found.items()}
    tables = {name: compute(store) for name, store in stores.items()}
    with atomic_folder(folder) as building:
        for name, table in tables.items():
            np.save(building / f"{name}.npy", table)
    return tables


def table(forward: Forward, layout: Layout, params: Params, store: ExampleStore, rows: int, length: int) -> np.ndarray:
    """log ref(y|x) in nats of every part of every item of the store under `params`, float32 [N, parts]."""
    devices = layout.parts("batch", "compute")
    rows, parts = -(-rows // devices) * devices, store.features.parts
    logps = np.zeros((len(store), parts), np.float32)
    for places, batch in _batches(store, rows, length):
        own = layout.own_rows(rows)
        placed = layout.place({name: batch[name][own] for name in READS}, rows, AXES)
        found = np.asarray(_logps(forward, layout.replicated, params, placed))
        for place, row in zip(places, found, strict=False):  # the last rows may be empty
            logps[place] = row[: len(place) * parts].reshape(-1, parts)
    return logps


def _batches(store: ExampleStore, rows: int, length: int) -> Iterator[tuple[list[list[int]], Batch]]:
    places = best_fit(store.lengths, length)
    slots = store.features.parts * max(map(len, places), default=0)
    groups = [places[start : start + rows] for start in range(0, len(places), rows)]
    for group in track(groups, "the reference's log-probabilities"):
        yield group, lay([store.take(place) for place in group], rows, length, slots, store.features)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logps(forward: Forward, everywhere: jax.sharding.Sharding, params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
    answers = segment_answers(answer_logps(forward, params, batch), batch)
    return jax.lax.with_sharding_constraint(answers.logps, everywhere)
