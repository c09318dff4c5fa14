"""Prefetching: batches are made in order, ahead of the step, by tf.data or, on a machine without TensorFlow, by plain threads."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from alpaca_jax import tensorflow
from alpaca_jax.data.pack import Batch

# A batch takes a millisecond or two to make: two threads, a few batches ahead, are enough for any step.
THREADS = 2
AHEAD = 4


def ahead(make: Callable[[int], Batch], start: int, stop: int, kinds: Mapping[str, np.dtype]) -> Iterator[Batch]:
    """Yields `make(start)` to `make(stop - 1)`, each computed in a thread; its exceptions are raised here unchanged.

    `kinds`: the kind of each array of a batch, in the batch's order.
    """
    tf = tensorflow.load()
    yield from _by_threads(make, start, stop) if tf is None else _by_tensorflow(tf, make, start, stop, kinds)


def _by_tensorflow(tf: Any, make: Callable[[int], Batch], start: int, stop: int, kinds: Mapping[str, np.dtype]) -> Iterator[Batch]:
    failed: dict[int, Exception] = {}

    def arrays(index: np.ndarray) -> list[np.ndarray]:
        try:
            return list(make(int(index)).values())
        except Exception as error:  # TensorFlow would pass on its text only
            failed[int(index)] = error
            raise

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # the numbers below are fixed, and its thread delayed the end of a run
    options.threading.private_threadpool_size = THREADS
    options.threading.max_intra_op_parallelism = 1
    batches = (
        tf.data.Dataset.range(start, stop)
        .map(lambda index: tf.numpy_function(arrays, [index], tuple(kinds.values()), stateful=False), num_parallel_calls=THREADS)
        .prefetch(AHEAD)
        .with_options(options)
    )
    index = start
    try:
        for batch in batches.as_numpy_iterator():
            yield dict(zip(kinds, batch, strict=True))
            index += 1
    except tf.errors.OpError:
        if index in failed:
            raise failed[index] from None
        raise


def _by_threads(make: Callable[[int], Batch], start: int, stop: int) -> Iterator[Batch]:
    indices = iter(range(start, stop))
    with ThreadPoolExecutor(THREADS) as pool:
        pending = deque(pool.submit(make, index) for index in itertools.islice(indices, AHEAD))
        try:
            while pending:
                batch = pending.popleft().result()
                pending.extend(pool.submit(make, index) for index in itertools.islice(indices, 1))
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a caller that stops early doesn't wait for batches not yet begun
