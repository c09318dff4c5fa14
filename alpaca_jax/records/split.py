"""Which records are kept out of training: by a hash, so that neither order nor machine matter, and with all copies on one side."""

import hashlib

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.records.record import Record


def rank(record: Record) -> int:
    """A number from 0 to 2**64 - 1 by which records are held out: the start of the sha256 of the id."""
    return _rank(record.id)


def text_rank(record: Record) -> int:
    """The rank of a record whose id is the hash of its texts, which is that of all its copies."""
    return _rank(record.text_id())


def heldout_ids(ranks: np.ndarray, heldout: int, texts: np.ndarray | None = None) -> np.ndarray:
    """Which records are held out, bool [N]: those with the `heldout` lowest `ranks` (uint64 [N]); of equal ranks, the earlier.

    `texts` (uint64 [N]) are equal for copies, which follow the lowest of their ranks together. So a few more than `heldout` may be held
    out, or fewer where none would be left; a text with more copies than that is only held out where there is nothing else.
    """
    if not 0 <= heldout < len(ranks):
        raise UserError(f"data.heldout={heldout}: there are {len(ranks)} records, and at least one must be left for training.")
    chosen = np.zeros(len(ranks), bool)
    if texts is None:
        chosen[np.argsort(ranks, kind="stable")[:heldout]] = True
    elif heldout:
        _, first, group, copies = np.unique(texts, return_index=True, return_inverse=True, return_counts=True)
        lowest = np.full(len(copies), np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(lowest, group, ranks)
        order = np.lexsort((first, lowest, copies > heldout))
        if len(copies) == 1:
            raise UserError(
                f"data.heldout={heldout}: the {len(ranks)} records all have the same text, and copies stand on one side. Give others."
            )
        chosen = np.isin(group, order[: min(int(np.searchsorted(np.cumsum(copies[order]), heldout)) + 1, len(copies) - 1)])
    return chosen


def _rank(id: str) -> int:
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")
