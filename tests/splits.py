"""Records split as a run splits them, for comparison."""

from collections.abc import Sequence

import numpy as np

from alpaca_jax.records import Record, heldout_ids, rank


def split_records(records: Sequence[Record], heldout: int) -> tuple[list[Record], list[Record]]:
    """(train, held out), each in the given order; held out are the `heldout` lowest ranks."""
    held = heldout_ids(np.array([rank(record) for record in records], np.uint64), heldout)
    return [record for record, out in zip(records, held, strict=True) if not out], [r for r, out in zip(records, held, strict=True) if out]
