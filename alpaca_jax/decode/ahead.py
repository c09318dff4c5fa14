"""Compiling before the first request: a batch's smallest sizes, with which every server starts.

The functions run the programs once. Any weights of the right shapes will do, so that a thread can compile while others read the weights.
"""

import numpy as np

from alpaca_jax.decode import sampling
from alpaca_jax.decode.batch import LEAST_LENGTH, SINGLE
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.weights import Weights


def steps(program: Program, weights: Weights) -> None:
    """Compiles a greedy step of one row, and reading its prompt."""
    rows, count = SINGLE
    zeros = np.zeros(rows, np.int32)
    caches = [program.empty(1, LEAST_LENGTH) for _ in range(program.group)]
    own = program.take(caches[0], zeros)
    x_MD, at = program.embed(weights.embed_VD, np.zeros(SINGLE, np.int32), zeros, np.full(rows, count, np.int32))
    own, _ = program.prefill(weights.group(0, 1), np.int32(0), own, x_MD, zeros, at)
    caches[0] = program.put(caches[0], own, zeros)
    x_RD, at = program.embed(weights.embed_VD, np.zeros((1, 1), np.int32), zeros)
    program.decode(weights.group(0, program.group), np.int32(0), caches, x_RD, zeros, at)
    _choose(program, weights, drawn=False)


def sampling_choice(program: Program, weights: Weights) -> None:
    """Compiles the choice of a token that isn't greedy, by far the largest program of one row."""
    _choose(program, weights, drawn=True)


def _choose(program: Program, weights: Weights, drawn: bool) -> None:
    x_RD, _ = program.embed(weights.embed_VD, np.zeros((1, 1), np.int32), np.zeros(1, np.int32))
    draw = sampling.Draw(np.zeros(1, np.float32), np.ones(1, np.float32), np.zeros(1, np.uint32), np.zeros(1, np.int32))
    program.choose(0, drawn, weights.norm, weights.head_VD, x_RD, draw)
