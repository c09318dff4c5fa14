"""Asks a teacher many questions at once, each of them once: what the log has answered already is read from there."""

import contextlib
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from alpaca_jax.errors import Lost
from alpaca_jax.teacher.bill import OverBudget
from alpaca_jax.teacher.log import Advance, AnswerLog
from alpaca_jax.teacher.protocol import Request, Teacher

T = TypeVar("T")


@contextlib.contextmanager
def ask_all(
    advance: Advance[T],
    indices: Iterable[int],
    log: AnswerLog,
    teacher: Teacher,
    concurrency: int,
    ahead: Callable[[], float] = lambda: math.inf,
    changed: Callable[[], None] = lambda: None,
) -> Iterator[Iterator[tuple[int, T]]]:
    """A context that yields (index, result) in the order of `indices`, whatever order the answers come in; leave it when you have enough.

    At most `concurrency` indices are worked on at a time, and at most `ahead()` (1 or more) are begun and not yet yielded: results that
    wait for their turn are in memory. `changed` is called each time an index is done.

    The first error is raised at once, except OverBudget: what is in flight then is waited for, and yielded as far as the order allows.
    Leaving the context, also by Ctrl-C, waits for answers that cost money; a second Ctrl-C doesn't. A UserError says which of them could
    not be saved because the disk is full.
    """
    stop, paid = threading.Event(), log.bill.prices.any

    def work(index: int) -> T:
        answers, step = log.follow(index, advance)
        while isinstance(step, Request):
            if stop.is_set():
                raise Lost("stopped")
            log.check()
            answers.append(teacher.ask(step, stop, log.entry(index, len(answers), step)))
            answers, step = log.follow(index, advance, answers)
        return step

    workers = _Workers(concurrency, work)
    with log.reserving(concurrency) if paid else contextlib.nullcontext():
        try:
            yield _in_order(workers, indices, ahead, changed)
        finally:
            stop.set()
            if paid:
                workers.settle()


class _Workers(Generic[T]):
    """Threads that a hanging request can't keep alive at the end, as those of an executor would be."""

    def __init__(self, number: int, work: Callable[[int], T]) -> None:
        self.busy, self.number = 0, number
        self._work = work
        self._under_way = set[int]()
        self._given: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, T | BaseException]] = queue.SimpleQueue()
        for _ in range(number):
            threading.Thread(target=self._loop, daemon=True).start()

    def give(self, index: int) -> None:
        self.busy += 1
        self._given.put(index)

    def take(self) -> tuple[int, T | BaseException]:
        """(index, what the work returned or raised)."""
        done = self._done.get()
        self.busy -= 1
        return done

    def settle(self) -> None:
        """Waits until no work is under way. What was counted doesn't matter here: Ctrl-C may have come between a count and its work."""
        while self._under_way or not self._given.empty():
            time.sleep(0.02)

    def _loop(self) -> None:
        while True:
            index = self._given.get()
            self._under_way.add(index)
            try:
                self._done.put((index, self._work(index)))
            except BaseException as error:  # raised again by the taker
                self._done.put((index, error))
            finally:
                self._under_way.discard(index)


def _in_order(
    workers: _Workers[T], indices: Iterable[int], ahead: Callable[[], float], changed: Callable[[], None]
) -> Iterator[tuple[int, T]]:
    todo, waiting = iter(indices), deque[int]()  # waiting: begun and not yet yielded, in order
    ready: dict[int, T] = {}
    over: OverBudget | None = None
    while True:
        while over is None and workers.busy < workers.number and len(waiting) < ahead() and (index := next(todo, None)) is not None:
            workers.give(index)
            waiting.append(index)
        if not workers.busy:
            break
        done, result = workers.take()
        changed()
        if isinstance(result, OverBudget):
            over = result
            continue
        if isinstance(result, BaseException):
            raise result
        ready[done] = result
        while waiting and waiting[0] in ready:
            index = waiting.popleft()
            yield index, ready.pop(index)
    if over is not None:
        raise over
