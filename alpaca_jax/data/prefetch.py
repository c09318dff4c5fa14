"""Prefetching: threads make the next batches while the device takes its step.

Not with tf.data: importing TensorFlow took longer than everything else before the first step, and two threads make batches much faster
than any step takes them. A batch is a function of its index, so that there is no state of a pipeline to keep either.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from alpaca_jax.data.pack import Batch

# Making a batch takes a millisecond or two: two threads, a few batches ahead, keep any step fed.
THREADS = 2
AHEAD = 4


def ahead(make: Callable[[int], Batch], start: int, stop: int) -> Iterator[Batch]:
    """Yields `make(start)` to `make(stop - 1)`, each made in a thread; what one of them raises is raised here as itself."""
    indices = iter(range(start, stop))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="batches") as pool:
        pending = deque(pool.submit(make, index) for index in itertools.islice(indices, AHEAD))
        try:
            while pending:
                batch = pending.popleft().result()
                pending.extend(pool.submit(make, index) for index in itertools.islice(indices, 1))
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a caller who leaves early waits for no batch that isn't being made
