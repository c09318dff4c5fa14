"""From answers to kept records: many requests in flight, judged strictly in the order of their index."""

import math
import queue
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from alpaca_jax.errors import Lost
from alpaca_jax.generate.config import Config
from alpaca_jax.generate.dedupe import Evaluations, Seen
from alpaca_jax.generate.filters import answer_problem, instruction_problem
from alpaca_jax.generate.log import Log
from alpaca_jax.generate.methods import Candidate, Method
from alpaca_jax.records import Record
from alpaca_jax.teacher.bill import Bill, OverBudget
from alpaca_jax.teacher.protocol import Request, Teacher

NONSENSE = 8  # unreadable answers in one run before its teacher may be taken for broken


class Collector:
    """The records kept so far, and what became of every candidate.

    Which records are kept depends on the answers alone, whatever order they came in: candidates are judged by index. So a log judged
    again gives the same records, and other filters may be tried on it for nothing.
    """

    def __init__(self, config: Config, method: Method, log: Log, bill: Bill) -> None:
        self.kept: list[Record] = []
        self.counts: Counter[str] = Counter()
        self.next = 0  # the first index not judged yet
        self._config, self._method, self._log, self._bill = config, method, log, bill
        self._seen = Seen(config.filters.rouge_l)
        self._evaluations = Evaluations(config.decontaminate or (), config.filters.rouge_l)
        for instruction in method.known:
            self._seen.add(instruction)

    @property
    def complete(self) -> bool:
        """Whether there are as many records as were asked for."""
        return len(self.kept) >= self._config.count

    def judge_log(self, skip_gaps: bool) -> None:
        """Judges what the log holds from `next` on; an index without all its answers ends it, or is passed over and counted."""
        last = max(self._log.indices, default=-1)
        while not self.complete and self.next <= last:
            found = self._known(self.next)
            if isinstance(found, Request):
                if not skip_gaps:
                    return
                self.counts["unanswered"] += 1
                found = []
            self._judge(found)

    def fill(self, teacher: Teacher, changed: Callable[[], None]) -> str:
        """Asks `teacher` until there are enough records or the budget is used up, and returns which: "count", "dollars", "requests".

        `changed` is called after each answer. Ctrl-C waits for answers that cost money; a second one doesn't.
        """
        stop, over = threading.Event(), None
        workers = _Workers(self._config.teacher.concurrency, lambda index: self._ask(index, teacher, stop))
        ready: dict[int, list[Candidate]] = {}
        sent, counts_before = self.next, self.counts.copy()
        try:
            while not self.complete and (over is None or workers.busy):
                while over is None and workers.busy < self._config.teacher.concurrency and workers.busy + len(ready) < self._useful():
                    workers.give(sent)
                    sent += 1
                index, result = workers.take()
                changed()
                if isinstance(result, OverBudget):
                    over = result.limit
                    continue
                if isinstance(result, BaseException):
                    raise result
                ready[index] = result
                while self.next in ready and not self.complete:
                    self._judge(ready.pop(self.next))
                self._check_sense(self.counts - counts_before)
                changed()
        finally:
            stop.set()
            while workers.busy and self._bill.prices.any:
                workers.take()
        if over is not None and not self.complete:
            self.judge_log(skip_gaps=True)  # indices after the one that could not be paid for
        return "count" if self.complete else str(over)

    def _useful(self) -> int:
        """How many indices may be out at once, so that hardly any is asked in vain: what is lacking over what an index gives."""
        each = max(len(self.kept), 1) / self.next if self.next else self._method.yields
        return math.ceil((self._config.count - len(self.kept)) / each)

    def _known(self, index: int) -> Request | list[Candidate]:
        return self._method.advance(index, self._log.answers(index), self._doomed)

    def _ask(self, index: int, teacher: Teacher, stop: threading.Event) -> list[Candidate]:
        """The candidates of an index, asking for what the log lacks."""
        while isinstance(request := self._known(index), Request):
            if stop.is_set():
                raise Lost("stopped")
            step = len(self._log.answers(index))
            answer = teacher.ask(request, stop, partial(self._log.note, index, step) if self._bill.prices.any else None)
            self._log.append(index, step, request, answer)
        return request

    def _doomed(self, instruction: str) -> bool:
        # What is kept only grows, so a near-duplicate of today is one when its turn comes.
        return self._instruction_problem(instruction) is not None

    def _instruction_problem(self, instruction: str) -> str | None:
        if problem := instruction_problem(instruction, self._config.filters):
            return problem
        return "near_duplicate" if self._seen.holds(instruction) else None

    def _judge(self, candidates: list[Candidate]) -> None:
        for item in candidates:
            if self.complete:
                break
            problem = self._problem(item)
            self.counts[problem or "kept"] += 1
            if problem is None:
                self._seen.add(item.instruction)
                self.kept.append(self._record(item))
        self.next += 1

    def _problem(self, item: Candidate) -> str | None:
        problem = item.problem or self._instruction_problem(item.instruction)
        problem = problem or answer_problem(item.output, item.cut, self._config.filters)
        if problem is None and self._evaluations.hold(item.instruction, item.input, item.output):
            return "evaluation_set"
        return problem

    def _record(self, item: Candidate) -> Record:
        provenance: dict[str, Any] = {
            "method": self._config.method,
            "teacher": self._log.answers(self.next)[-1].model,
            "index": self.next,
            "item": item.item,
            "seed": item.seed,
        }
        return Record(item.instruction, item.input, item.output, provenance=provenance)

    def _check_sense(self, counts: Counter[str]) -> None:
        if counts["nonsense"] >= NONSENSE and 2 * counts["nonsense"] > counts.total():
            raise Lost(
                f"{counts['nonsense']} of {counts.total()} answers of the teacher hold no text that can be read; "
                f"look into {self._log.path} and at the teacher."
            )


class _Workers:
    """Threads that a hanging request can't keep alive at the end, as those of an executor would be."""

    def __init__(self, number: int, work: Callable[[int], Any]) -> None:
        self.busy = 0
        self._work = work
        self._given: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for _ in range(number):
            threading.Thread(target=self._loop, daemon=True).start()

    def give(self, index: int) -> None:
        self.busy += 1
        self._given.put(index)

    def take(self) -> tuple[int, Any]:
        """(index, what the work returned or raised)."""
        done = self._done.get()
        self.busy -= 1
        return done

    def _loop(self) -> None:
        while True:
            index = self._given.get()
            try:
                self._done.put((index, self._work(index)))
            except BaseException as error:  # raised again by the taker
                self._done.put((index, error))
