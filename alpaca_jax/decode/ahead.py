"""Compiling before the first request: a batch's smallest sizes, with which every server starts.

The programs are run once. Any weights of the right shapes will do for that, so that a thread can compile while others read the weights.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from alpaca_jax.decode import sampling
from alpaca_jax.decode.batch import LEAST_LENGTH, SINGLE
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.weights import Weights


def compile_smallest(program: Program, weights: Weights) -> None:
    """Compiles a step of one row, greedy or not, and reading its prompt."""
    with ThreadPoolExecutor(1) as pool:
        sampled = pool.submit(_choose, program, weights, drawn=True)  # by far the largest program
        _choose(program, weights, drawn=False)
        _run_layers(program, weights)
        sampled.result()


def _run_layers(program: Program, weights: Weights) -> None:
    (rows, count), group = SINGLE, program.group(weights)
    zeros = np.zeros(rows, np.int32)
    caches = [program.empty(1, LEAST_LENGTH) for _ in range(group)]
    x_MD, at = program.embed(weights.embed_VD, np.zeros(SINGLE, np.int32), zeros, np.full(rows, count, np.int32))
    which = zeros if weights.several else None
    own, _ = program.prefill(weights.group(0, 1), np.int32(0), program.take(caches[0], zeros), x_MD, zeros, at, which)
    caches[0] = program.put(caches[0], own, zeros)
    x_RD, at = program.embed(weights.embed_VD, np.zeros((1, 1), np.int32), zeros)
    program.decode(weights.group(0, group), np.int32(0), caches, x_RD, zeros, at, which)


def _choose(program: Program, weights: Weights, drawn: bool) -> None:
    x_RD, _ = program.embed(weights.embed_VD, np.zeros((1, 1), np.int32), np.zeros(1, np.int32))
    draw = sampling.Draw(np.zeros(1, np.float32), np.ones(1, np.float32), np.zeros(1, np.uint32), np.zeros(1, np.int32))
    program.choose(0, drawn, weights.norm, weights.head_VD, x_RD, draw)
