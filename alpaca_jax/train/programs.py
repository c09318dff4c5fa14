"""The training step, compiled once for each shape of a batch."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from alpaca_jax.trainer.assemble import Assembly

Shape = tuple[int, int]  # rows and length


class Programs:
    """Compiled steps by the shape [rows, length] of their batch. `ahead` compiles one in a thread, while data and weights are read."""

    def __init__(self, assembly: Assembly, slots: int = 0) -> None:
        self._assembly, self._slots = assembly, slots
        self._compiled: dict[Shape, Any] = {}
        self._ahead: dict[Shape, Future[Any]] = {}

    @contextlib.contextmanager
    def ahead(self, shape: Shape) -> Iterator[None]:
        """A context in which the step for `shape` is compiled by a thread of its own."""
        with ThreadPoolExecutor(1, thread_name_prefix="compile") as pool:
            self._ahead[shape] = pool.submit(self._assembly.compile, *shape, self._slots)
            yield

    def has(self, shape: Shape) -> bool:
        """Whether `get` returns at once."""
        return shape in self._compiled

    def get(self, shape: Shape) -> Any:
        """The step for batches of this shape; waits for it, or compiles it, the first time."""
        if shape not in self._compiled:
            coming = self._ahead.pop(shape, None)
            self._compiled[shape] = self._assembly.compile(*shape, self._slots) if coming is None else coming.result()
        return self._compiled[shape]
