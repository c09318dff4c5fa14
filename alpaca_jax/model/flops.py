"""Floating-point operations of a LLaMA, computed analytically (a compiler's cost analysis counts the body of a scan only once)."""

import numpy as np

from alpaca_jax.model.architecture import Architecture


def linear_flops_per_token(architecture: Architecture) -> int:
    """Forward FLOP for one token of every matrix product except attention's, including the vocabulary product."""
    a = architecture
    layer = a.hidden_size * a.head_dim * (2 * a.num_heads + 2 * a.num_kv_heads) + 3 * a.hidden_size * a.intermediate_size
    return 2 * (a.num_layers * layer + a.vocab_size * a.hidden_size)


def attention_flops(architecture: Architecture, segment_lengths: np.ndarray) -> float:
    """Forward FLOP of causal attention inside segments of these lengths: each token attends to itself and to those before it.

    In a layer with a sliding window, it attends to those inside the window.
    """
    a, lengths = architecture, np.asarray(segment_lengths, dtype=np.float64)
    triangles = lambda sides: float((sides * (sides + 1) / 2).sum())  # noqa: E731
    outside = 0.0 if a.sliding_window is None else triangles(np.maximum(lengths - a.sliding_window, 0.0))
    return 4 * a.num_heads * a.head_dim * (a.num_layers * triangles(lengths) - len(a.sliding) * outside)


def train_flops(architecture: Architecture, segment_lengths: np.ndarray, adapter: int | None = None) -> float:
    """FLOP of one training step on real tokens: forward plus twice that backward, without recomputation (PaLM, arXiv:2204.02311).

    Where an adapter of so many weights is trained, the model's own matrices have no gradient, and their backward pass costs as much as
    the forward one.
    """
    tokens = float(np.asarray(segment_lengths).sum())
    return tokens * _train_linear(architecture, adapter) + 3 * attention_flops(architecture, segment_lengths)


def train_flops_full_attention(architecture: Architecture, tokens: float, sequence_length: int, adapter: int | None = None) -> float:
    """The figure other projects report for `tokens` real tokens, which counts attention as if every token saw a whole row."""
    a = architecture
    per_token = 4 * a.num_layers * a.num_heads * a.head_dim * sequence_length
    return tokens * (_train_linear(a, adapter) + 3 * per_token)


def _train_linear(architecture: Architecture, adapter: int | None) -> int:
    linear = linear_flops_per_token(architecture)
    return 3 * linear if adapter is None else 2 * linear + 6 * adapter


def segment_lengths(segments_BT: np.ndarray) -> np.ndarray:
    """The lengths of all segments of packed rows; empty slots (segment 0) do not count."""
    counts = [np.bincount(row)[1:] for row in np.asarray(segments_BT)]
    lengths = np.concatenate(counts) if counts else np.zeros(0, np.int64)
    return lengths[lengths > 0]
