"""Examples whose tokens all encode their number, so that a batch reveals which examples it holds."""

import numpy as np

from alpaca_jax.data.example import Example, Examples


def make(lengths: list[int], first: int = 0) -> Examples:
    """Examples of the given lengths (2 or more), numbered from `first`: a one-token prompt, 0, then the token i + 1 for number i."""
    return Examples.of(
        Example.answering(np.array([0] + [number + 1] * (length - 1), np.int32), 1) for number, length in enumerate(lengths, start=first)
    )


def numbers(batch: dict[str, np.ndarray]) -> list[int]:
    """The sorted numbers of a batch's examples."""
    return sorted(
        int(row_tokens[row_segments == segment][1]) - 1
        for row_tokens, row_segments in zip(batch["tokens"], batch["segments"], strict=True)
        for segment in range(1, row_segments.max(initial=0) + 1)
    )


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    """Whether two batches are equal, including shapes and dtypes."""
    return left.keys() == right.keys() and all(
        np.array_equal(left[name], right[name]) and left[name].dtype == right[name].dtype for name in left
    )
