"""The next token of each row: greedy, or drawn from the nucleus, by the row's own random stream."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt32

Array = jax.Array | np.ndarray
BLOCK = 256  # the vocabulary is summed in blocks of this size, so that a draw scans V / 256 + 256 sums and not V


class Draw(NamedTuple):
    """How each row is sampled."""

    temperature_R: Float[Array, " R"]  # 0: greedy
    top_p_R: Float[Array, " R"]
    seed_R: UInt32[Array, " R"]
    index_R: Int[Array, " R"]  # how many tokens the row has: with the seed, the place in its random stream


def sample(
    logits_RV: Float[jax.Array, "R V"], draw: Draw, drawn: bool = True, blocked: bool = True
) -> tuple[Int[jax.Array, " R"], Float[jax.Array, " R"]]:
    """Token ids, and their natural log-probabilities at temperature 1 and before any cut.

    A row's choice depends on its own logits, temperature, top_p, seed and index alone. Without `drawn` all rows are greedy, whatever their
    temperatures; `blocked` says how the largest is looked for (see `Tuning`).

    The nucleus is the smallest set of likeliest tokens that holds a share top_p (Holtzman et al. 2020, arXiv:1904.09751). No sort finds it:
    a token is drawn from everything and kept if the tokens likelier than it hold less than top_p; otherwise it and all less likely ones are
    outside, and the next draw is among the rest (as FlashInfer does, arXiv:2501.01005). That is exact, and two or three passes on average.
    """
    missing = -logits_RV.shape[1] % BLOCK
    blocks_RCP = jnp.pad(logits_RV, ((0, 0), (0, missing)), constant_values=-jnp.inf).reshape(logits_RV.shape[0], -1, BLOCK)
    likeliest_R, best_R = (
        _likeliest(blocks_RCP) if blocked else (jnp.argmax(logits_RV, axis=1).astype(jnp.int32), jnp.max(logits_RV, axis=1))
    )
    below_RCP = blocks_RCP - best_R[:, None, None]
    greedy_R = draw.temperature_R == 0
    ids_R = jnp.where(greedy_R, likeliest_R, _nucleus(below_RCP, greedy_R, draw)) if drawn else likeliest_R
    return ids_R, _at(below_RCP, ids_R) - jnp.log(jnp.sum(jnp.exp(below_RCP), axis=(1, 2)))


def _likeliest(blocks_RCP: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first of the largest values of each row, and the value."""
    peaks_RC = jnp.max(blocks_RCP, axis=-1)
    best_R = jnp.max(peaks_RC, axis=-1)
    block_R = _first(peaks_RC == best_R[:, None])
    block_RP = jnp.take_along_axis(blocks_RCP, block_R[:, None, None], axis=1)[:, 0]
    return block_R * BLOCK + _first(block_RP == best_R[:, None]), best_R


def _nucleus(below_RCP: jax.Array, greedy_R: jax.Array, draw: Draw) -> jax.Array:
    rows = below_RCP.shape[0]
    weights_RCP = jnp.exp(below_RCP / jnp.where(greedy_R, 1.0, draw.temperature_R)[:, None, None])
    enough_R = draw.top_p_R * jnp.sum(weights_RCP, axis=(1, 2))
    stream = jax.vmap(lambda seed, index: jax.random.fold_in(jax.random.key(seed), index))(draw.seed_R, draw.index_R)

    def above(floor_R: jax.Array) -> jax.Array:
        return jnp.where(weights_RCP > floor_R[:, None, None], weights_RCP, 0.0)

    def attempt(state: tuple[Any, ...]) -> tuple[Any, ...]:
        number, floor_R, ids_R, done_R = state
        uniform_R = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, number)))(stream)
        new_R = _invert(above(floor_R), uniform_R)
        weight_R = _at(weights_RCP, new_R)
        likelier_R = jnp.sum(above(weight_R), axis=(1, 2))
        ids_R = jnp.where(done_R, ids_R, new_R)
        floor_R = jnp.where(done_R, floor_R, weight_R)
        done_R = done_R | (likelier_R < enough_R) | (draw.top_p_R >= 1) | (likelier_R == 0)
        return number + 1, floor_R, ids_R, done_R

    start: tuple[Any, ...] = (jnp.int32(0), jnp.full(rows, -1.0, weights_RCP.dtype), jnp.zeros(rows, jnp.int32), greedy_R)
    return jax.lax.while_loop(lambda state: ~jnp.all(state[3]), attempt, start)[2]


def _invert(weights_RCP: jax.Array, uniform_R: jax.Array) -> jax.Array:
    """The token at the share `uniform_R` of each row's summed weights: first its block, then its place in the block."""
    block_R, rest_R = _find(jnp.sum(weights_RCP, axis=-1), uniform_R)
    place_R, _ = _find(jnp.take_along_axis(weights_RCP, block_R[:, None, None], axis=1)[:, 0], rest_R)
    return block_R * BLOCK + place_R


def _find(weights_RP: jax.Array, share_R: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The index at which the running sum passes `share_R` of the whole, and the share of that index's own weight below that point."""
    running_RP = jnp.cumsum(weights_RP, axis=-1)
    target_R = share_R * running_RP[:, -1]
    passed_RP = (running_RP > target_R[:, None]) & (weights_RP > 0)
    # Rounding may leave the target at the very end of the sum: then the heaviest takes it.
    heaviest_RP = weights_RP == jnp.max(weights_RP, axis=-1, keepdims=True)
    index_R = _first(jnp.where(jnp.any(passed_RP, axis=-1, keepdims=True), passed_RP, heaviest_RP))
    at = lambda array_RP: jnp.take_along_axis(array_RP, index_R[:, None], axis=1)[:, 0]  # noqa: E731
    share = 1 - (at(running_RP) - target_R) / at(weights_RP)
    return index_R, jnp.clip(share, 0.0, 1.0)


def _first(mask_RP: jax.Array) -> jax.Array:
    """The first true index of each row."""
    size = mask_RP.shape[1]
    return jnp.min(jnp.where(mask_RP, jnp.arange(size, dtype=jnp.int32), size - 1), axis=-1)


def _at(values_RCP: jax.Array, ids_R: jax.Array) -> jax.Array:
    """Each row's value at its token."""
    return values_RCP[jnp.arange(ids_R.shape[0]), ids_R // BLOCK, ids_R % BLOCK]
