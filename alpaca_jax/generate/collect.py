"""From answers to kept records: a fold over the answers, strictly in the order of their index."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from alpaca_jax.errors import Lost
from alpaca_jax.generate.config import Config
from alpaca_jax.generate.dedupe import Evaluations, Seen
from alpaca_jax.generate.filters import answer_problem, instruction_problem
from alpaca_jax.generate.methods import Candidate, Method
from alpaca_jax.records import Record
from alpaca_jax.teacher.asking import ask_all
from alpaca_jax.teacher.bill import OverBudget
from alpaca_jax.teacher.log import AnswerLog
from alpaca_jax.teacher.protocol import Answer, Request, Teacher

NONSENSE = 8  # unreadable answers in one run before its teacher may be taken for broken


class Drawn(NamedTuple):
    """The candidates of one index, and the model that wrote them."""

    candidates: list[Candidate]
    model: str


class Collector:
    """The records kept so far, and what became of every candidate.

    Which records are kept depends on the answers alone, whatever order they came in: candidates are judged by index. So a log judged
    again gives the same records, and other filters may be tried on it for nothing.
    """

    def __init__(self, config: Config, method: Method, log: AnswerLog, seen: Seen) -> None:
        self.kept: list[Record] = []
        self.counts: Counter[str] = Counter()
        self.next = 0  # the first index not judged yet
        self._config, self._method, self._log, self._seen = config, method, log, seen
        self._evaluations = Evaluations(config.decontaminate or (), config.filters.rouge_l)
        for instruction in method.known:
            seen.add(instruction)

    @property
    def complete(self) -> bool:
        """Whether there are as many records as were asked for."""
        return len(self.kept) >= self._config.count

    def judge_log(self, skip_gaps: bool) -> None:
        """Judges what the log holds from `next` on; an index without all its answers ends it, or is passed over and counted."""
        while not self.complete and self.next < self._log.end:
            drawn = self._advance(self.next, self._log.answers(self.next))
            if isinstance(drawn, Request):
                if not skip_gaps:
                    return
                self.counts["unanswered"] += 1
                self.next += 1
            else:
                self._judge(drawn)

    def fill(self, teacher: Teacher, changed: Callable[[], None]) -> str:
        """Asks `teacher` until there are enough records or the budget is used up, and returns which: "count", "dollars", "requests".

        `changed` is called after each answer. Ctrl-C waits for answers that cost money; a second one doesn't.
        """
        before, indices = self.counts.copy(), itertools.count(self.next)
        concurrency = self._config.teacher.concurrency
        try:
            with ask_all(self._advance, indices, self._log, teacher, concurrency, self._useful, changed) as results:
                for _, drawn in results:
                    self._judge(drawn)
                    self._check_sense(self.counts - before)
                    changed()
                    if self.complete:
                        break
        except OverBudget as over:
            self.judge_log(skip_gaps=True)  # indices after the one that could not be paid for
            return "count" if self.complete else over.limit
        return "count"

    def _useful(self) -> int:
        """How many indices may be out at once, so that hardly any is asked in vain: what is lacking over what an index gives."""
        each = max(len(self.kept), 1) / self.next if self.next else self._method.yields
        return math.ceil((self._config.count - len(self.kept)) / each)

    def _advance(self, index: int, answers: Sequence[Answer]) -> Request | Drawn:
        step = self._method.advance(index, answers, self._doomed)
        return step if isinstance(step, Request) else Drawn(step, answers[-1].model)

    def _doomed(self, instruction: str) -> bool:
        # What is kept only grows, so a near-duplicate of today is one when its turn comes.
        return self._instruction_problem(instruction) is not None

    def _instruction_problem(self, instruction: str) -> str | None:
        if problem := instruction_problem(instruction, self._config.filters):
            return problem
        return "near_duplicate" if self._seen.holds(instruction) else None

    def _judge(self, drawn: Drawn) -> None:
        for item in drawn.candidates:
            if self.complete:
                break
            problem = self._problem(item)
            self.counts[problem or "kept"] += 1
            if problem is None:
                self._seen.add(item.instruction)
                self.kept.append(self._record(item, drawn.model))
        self.next += 1

    def _problem(self, item: Candidate) -> str | None:
        problem = item.problem or self._instruction_problem(item.instruction)
        problem = problem or answer_problem(item.output, item.cut, self._config.filters)
        if problem is None and self._evaluations.hold(item.instruction, item.input, item.output):
            return "evaluation_set"
        return problem

    def _record(self, item: Candidate, model: str) -> Record:
        provenance = {"method": self._config.method, "teacher": model, "index": self.next, "item": item.item, "seed": item.seed}
        return Record(item.instruction, item.input, item.output, provenance=provenance)

    def _check_sense(self, counts: Counter[str]) -> None:
        if counts["nonsense"] >= NONSENSE and 2 * counts["nonsense"] > counts.total():
            raise Lost(
                f"{counts['nonsense']} of {counts.total()} answers of the teacher hold no text that can be read; "
                f"look into {self._log.folder} and at the teacher."
            )
