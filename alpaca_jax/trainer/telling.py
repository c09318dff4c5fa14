"""Draws from a teacher's next-token distributions, and its most probable tokens, without ever holding all of its logits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from alpaca_jax.trainer.divergence import CHUNK, teacher_log_probs
from alpaca_jax.trainer.loss import chunks
from alpaca_jax.trainer.signal import Exact


def drawn(
    signal: Exact, key: PRNGKeyArray, count: int, temperature: float, vocab_size: int
) -> tuple[Int[Array, "B T M"], Float[Array, "B T"], Int[Array, "B T"]]:
    """`count` tokens drawn at each place, in the order of their ids; the entropy in nats; and the most probable token."""

    def chunk(log_probs_BCV: jax.Array, number: jax.Array) -> tuple[jax.Array, ...]:
        probs_BCV = jnp.exp(log_probs_BCV)
        sums_BCV = jnp.cumsum(probs_BCV, axis=-1)
        shape = (*log_probs_BCV.shape[:2], count)
        places_BCM = jnp.sort(jax.random.uniform(jax.random.fold_in(key, number), shape), axis=-1) * sums_BCV[..., -1:]
        find = jax.vmap(jax.vmap(lambda sums, places: jnp.searchsorted(sums, places, side="right")))
        ids_BCM = jnp.minimum(find(sums_BCV, places_BCM), vocab_size - 1).astype(jnp.int32)
        entropy_BC = -jnp.where(probs_BCV > 0, probs_BCV * log_probs_BCV, 0.0).sum(axis=-1)
        return ids_BCM, entropy_BC, log_probs_BCV.argmax(axis=-1).astype(jnp.int32)

    return _over_chunks(signal, chunk, temperature, vocab_size)


def best(signal: Exact, count: int, temperature: float, vocab_size: int) -> tuple[Int[Array, "B T K"], Float[Array, "B T K"]]:
    """The `count` most probable tokens at each place, best first, and their log-probabilities."""

    def chunk(log_probs_BCV: jax.Array, number: jax.Array) -> tuple[jax.Array, ...]:
        log_probs_BCK, ids_BCK = jax.lax.top_k(log_probs_BCV, count)
        return ids_BCK, log_probs_BCK

    return _over_chunks(signal, chunk, temperature, vocab_size)


def _over_chunks(signal: Exact, chunk: Callable[..., tuple[jax.Array, ...]], temperature: float, vocab_size: int) -> Any:
    """The results [B, T, ...] of a function of the log-probabilities [B, C, V] and the number of each chunk."""

    def one(number: jax.Array, told: dict) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        part = dataclasses.replace(signal, **told)
        return number + 1, chunk(teacher_log_probs(part, temperature, vocab_size, vocab_size), number)

    parts = jax.tree.map(lambda x: chunks(CHUNK, x)[0], signal.per_token())
    _, found = jax.lax.scan(one, jnp.zeros((), jnp.int32), parts)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]), found)
