"""Asking teachers in memory about batches: their hidden states, draws from them, or their most probable tokens."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.data.pack import Batch
from alpaca_jax.errors import UserError
from alpaca_jax.model.tree import Tree
from alpaca_jax.train.distill.cache import Kept
from alpaca_jax.train.distill.config import DistillConfig
from alpaca_jax.train.distill.teachers import Teacher, placed
from alpaca_jax.train.task import Site
from alpaca_jax.trainer import telling
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import distill
from alpaca_jax.trainer.objectives.distill import SHARES
from alpaca_jax.trainer.objectives.sft import READS
from alpaca_jax.trainer.signal import Exact


def ids_dtype(shared: int) -> str:
    """The smallest dtype that holds the ids of a vocabulary."""
    return "uint16" if shared <= 1 << 16 else "int32"


def hidden_dtype(compute_dtype: Any) -> str:
    """The two bytes that a hidden state is kept in: bfloat16 as it is computed, else float16, which has three more bits."""
    return "bfloat16" if jnp.dtype(compute_dtype) == jnp.bfloat16 else "float16"


class Asked:
    """Teachers in memory; `ask` and `kept` are what `cache.build` needs for a cache of `signal`."""

    def __init__(self, config: DistillConfig, signal: str, teachers: Mapping[str, Teacher], site: Site, seed: int) -> None:
        self._config, self._signal, self._teachers, self._site, self._seed = config, signal, teachers, site, seed
        self._shared = min(each.shared for each in teachers.values())
        self._forwards = tuple(each.forward for each in teachers.values())
        self._params = tuple(each.load(placed(each.specs, site)) for each in teachers.values())
        self._weights = tuple(each.config.weight for each in teachers.values())

    @property
    def kept(self) -> dict[str, Kept]:
        """The arrays of the cache."""
        ids, config = ids_dtype(self._shared), self._config
        if self._signal == "exact":
            sizes = [(hidden_dtype(each.compute_dtype), (each.architecture.hidden_size,)) for each in self._forwards]
            return {distill.hidden_key(number): Kept(*size) for number, size in enumerate(sizes)}
        if self._signal == "draws":
            slots = (config.draws,)
            return {"drawn": Kept(ids, slots), "counts": Kept("uint8", slots), "entropy": Kept("float32"), "top": Kept("int32")}
        slots = (min(config.top, self._shared),)
        return {"best": Kept(ids, slots), "log_probs": Kept("float16", slots)}

    def ask(self, batch: Batch, number: int) -> dict[str, np.ndarray]:
        """The arrays of the cache for a batch; `number` picks the draws."""
        rows = len(batch["tokens"])
        shares = batch.get(SHARES)
        if shares is None and len(self._weights) > 1:
            shares = np.broadcast_to(np.array(self._weights, np.float32), (*batch["tokens"].shape, len(self._weights)))
        own = self._site.layout.own_rows(rows)
        arrays = {name: batch[name][own] for name in READS}
        axes = {} if shares is None else {SHARES: ("batch", "sequence", "unsharded")}
        arrays |= {} if shares is None else {SHARES: np.ascontiguousarray(shares[own])}
        placed_batch = self._site.layout.place(arrays, rows, axes)
        everywhere = self._site.layout.replicated
        hidden = _hidden(self._forwards, everywhere, self._params, placed_batch)
        if self._signal == "exact":
            kept = {
                name: np.asarray(each).astype(jnp.dtype(one.dtype)) for (name, one), each in zip(self.kept.items(), hidden, strict=True)
            }
            if not all(np.isfinite(each).all() for each in kept.values()):
                raise UserError(
                    "the teacher's hidden states are not finite in the two bytes that a cache of signal=exact has for each number: give "
                    "model.compute_dtype=bfloat16, whose range is wider, or signal=live"
                )
            return kept
        heads = tuple(forward.head(params) for forward, params in zip(self._forwards, self._params, strict=True))
        signal = Exact(hidden, heads, placed_batch.get(SHARES))
        heat, size = self._config.temperature, self._shared
        if self._signal == "draws":
            key = jax.random.fold_in(jax.random.key(self._seed), number)
            ids, entropy, best = _drawn(signal, key, self._config.draws, heat, size)
            return dict(zip(("drawn", "counts"), counted(np.asarray(ids)), strict=True)) | {
                "entropy": np.asarray(entropy),
                "top": np.asarray(best),
            }
        ids, log_probs = _best(signal, min(self._config.top, size), heat, size)
        return {"best": np.asarray(ids), "log_probs": np.asarray(log_probs)}


def counted(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids, counts) of draws [..., M] in the order of their ids: each once, with how often it stands there; counts of 0 elsewhere."""
    first = np.concatenate([np.ones_like(ids[..., :1], bool), ids[..., 1:] != ids[..., :-1]], axis=-1)
    number = np.cumsum(first, axis=-1) - 1  # the number of the distinct id at each place
    counts = np.zeros(ids.shape, np.int64)
    flat = counts.reshape(-1, ids.shape[-1])
    np.add.at(flat, (np.arange(len(flat))[:, None], number.reshape(flat.shape)), 1)
    distinct = np.zeros_like(ids)
    np.put_along_axis(distinct, number, ids, axis=-1)
    return distinct, counts


@partial(jax.jit, static_argnums=(0, 1))
def _hidden(
    forwards: tuple[Forward, ...], everywhere: jax.sharding.Sharding, params: tuple[Tree, ...], batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, ...]:
    each = tuple(forward.hidden(weights, batch) for forward, weights in zip(forwards, params, strict=True))
    return jax.lax.with_sharding_constraint(each, everywhere)


_drawn = jax.jit(telling.drawn, static_argnums=(2, 3, 4))
_best = jax.jit(telling.best, static_argnums=(1, 2, 3))
