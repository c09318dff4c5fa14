"""The next token of each row: greedy, or drawn from the nucleus, by the row's own random stream."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

BLOCK = 256  # the vocabulary is summed in blocks of this size, so that a draw scans V / 256 + 256 sums and not V


class Draw(NamedTuple):
    """How each row is sampled."""

    temperature_R: jax.Array  # 0: greedy
    top_p_R: jax.Array
    seed_R: jax.Array  # uint32
    index_R: jax.Array  # int32, how many tokens the row has: with the seed, the place in its random stream


def sample(logits_RV: jax.Array, draw: Draw) -> jax.Array:
    """Token ids int32 [R]; a row's choice depends on its own logits, temperature, top_p, seed and index alone.

    The nucleus is the smallest set of likeliest tokens that holds a share top_p (Holtzman et al. 2020, arXiv:1904.09751). No sort finds it:
    a token is drawn from everything and kept if the tokens likelier than it hold less than top_p; otherwise it and all less likely ones are
    outside, and the next draw is among the rest (as FlashInfer does, arXiv:2501.01005). That is exact, and two or three passes on average.
    """
    best_R1 = jnp.max(logits_RV, axis=-1, keepdims=True)
    ids_R = _first(logits_RV == best_R1)
    greedy_R = draw.temperature_R == 0
    return jax.lax.cond(jnp.all(greedy_R), lambda: ids_R, lambda: jnp.where(greedy_R, ids_R, _nucleus(logits_RV - best_R1, greedy_R, draw)))


def log_probabilities(logits_RV: jax.Array, ids_R: jax.Array) -> jax.Array:
    """Natural log-probability [R] of each row's token, at temperature 1 and before any cut."""
    chosen_R = jnp.take_along_axis(logits_RV, ids_R[:, None], axis=1)[:, 0]
    return chosen_R - jax.nn.logsumexp(logits_RV, axis=-1)


def _nucleus(below_RV: jax.Array, greedy_R: jax.Array, draw: Draw) -> jax.Array:
    rows, vocab_size = below_RV.shape
    weights_RV = jnp.exp(below_RV / jnp.where(greedy_R, 1.0, draw.temperature_R)[:, None])
    weights_RV = jnp.pad(weights_RV, ((0, 0), (0, -vocab_size % BLOCK)))
    enough_R = draw.top_p_R * jnp.sum(weights_RV, axis=-1)
    stream = jax.vmap(lambda seed, index: jax.random.fold_in(jax.random.key(seed), index))(draw.seed_R, draw.index_R)

    def attempt(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        number, floor_R, ids_R, done_R = state
        uniform_R = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, number)))(stream)
        new_R = _invert(jnp.where(weights_RV > floor_R[:, None], weights_RV, 0.0), uniform_R)
        weight_R = jnp.take_along_axis(weights_RV, new_R[:, None], axis=1)[:, 0]
        likelier_R = jnp.sum(jnp.where(weights_RV > weight_R[:, None], weights_RV, 0.0), axis=-1)
        ids_R = jnp.where(done_R, ids_R, new_R)
        floor_R = jnp.where(done_R, floor_R, weight_R)
        done_R = done_R | (likelier_R < enough_R) | (draw.top_p_R >= 1) | (likelier_R == 0)
        return number + 1, floor_R, ids_R, done_R

    start = (jnp.int32(0), jnp.full(rows, -1.0, weights_RV.dtype), jnp.zeros(rows, jnp.int32), greedy_R)
    return jax.lax.while_loop(lambda state: ~jnp.all(state[3]), attempt, start)[2]


def _invert(weights_RV: jax.Array, uniform_R: jax.Array) -> jax.Array:
    """The token at the share `uniform_R` of each row's summed weights: first its block, then its place in the block."""
    blocks_RCP = weights_RV.reshape(weights_RV.shape[0], -1, BLOCK)
    block_R, rest_R = _find(jnp.sum(blocks_RCP, axis=-1), uniform_R)
    place_R, _ = _find(jnp.take_along_axis(blocks_RCP, block_R[:, None, None], axis=1)[:, 0], rest_R)
    return block_R * BLOCK + place_R


def _find(weights_RP: jax.Array, share_R: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The index at which the running sum passes `share_R` of the whole, and the share of that index's own weight which is left."""
    running_RP = jnp.cumsum(weights_RP, axis=-1)
    target_R = share_R * running_RP[:, -1]
    passed_RP = (running_RP > target_R[:, None]) & (weights_RP > 0)
    # Rounding may leave the target at the very end of the sum: then the heaviest takes it.
    index_R = jnp.where(jnp.any(passed_RP, axis=-1), _first(passed_RP), _first(weights_RP == jnp.max(weights_RP, axis=-1, keepdims=True)))
    at = lambda array_RP: jnp.take_along_axis(array_RP, index_R[:, None], axis=1)[:, 0]  # noqa: E731
    share = 1 - (at(running_RP) - target_R) / at(weights_RP)
    return index_R, jnp.clip(share, 0.0, 1.0)


def _first(mask_RP: jax.Array) -> jax.Array:
    """The first true index of each row. (Two plain passes: XLA's argmax is four times slower on a CPU.)"""
    size = mask_RP.shape[1]
    return jnp.min(jnp.where(mask_RP, jnp.arange(size, dtype=jnp.int32), size - 1), axis=-1)
