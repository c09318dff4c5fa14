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

MOST_AHEAD = 10_000  # indices
NONSENSE = 8  # unreadable answers in one run before its teacher may be taken for broken


class Drawn(NamedTuple):
    """The candidates of one index, the model that wrote them, and the number of requests it took."""

    candidates: list[Candidate]
    model: str
    requests: int


# What to change, by the name under which a drop is counted.
REMEDIES = {
    "no_task": "the answers hold no list of tasks: another teacher.model, or a lower sampling.temperature",
    "no_output": "the tasks have no output: another teacher.model, or a lower sampling.temperature",
    "no_text_before_limit": "the model reasons until the token limit: a larger self_instruct.max_tokens or sampling.max_tokens",
    "nonsense": "the answers hold no text: look at the teacher",
    "empty": "the answers are empty: look at the teacher, or a larger sampling.max_tokens",
    "near_duplicate": "the teacher repeats itself: a higher sampling.temperature, other seeds or magpie.openings",
    "refusal": "the teacher refuses: another teacher.model, other seeds, or filters.refusals=false",
    "cut": "the answers are cut off: a larger self_instruct.max_tokens or sampling.max_tokens, or filters.cut=false",
    "cut_instruction": "the instructions are cut off: a larger sampling.instruction_max_tokens, or magpie.stop of the model's template",
    "broken": "the answers repeat themselves or are undecodable: a lower sampling.temperature, or filters.broken=false",
}


class Collector:
    """The records kept so far, and what became of every candidate.

    Which records are kept depends on the answers alone, whatever order they came in: candidates are judged by index. So a log judged
    again gives the same records, and other filters may be tried on it for nothing.
    """

    def __init__(self, config: Config, method: Method, log: AnswerLog, seen: Seen) -> None:
        self.kept: list[Record] = []
        self.counts: Counter[str] = Counter()
        self.next = 0  # the first index not judged yet
        self._fruitless = 0  # requests since the last record that was kept, of this start
        self._reasons: Counter[str] = Counter()  # what became of the candidates since then
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
            _, drawn = self._log.follow(self.next, self._advance)
            if isinstance(drawn, Request):
                if not skip_gaps:
                    return
                self.counts["unanswered"] += 1
                self.next += 1
            else:
                self._judge(drawn)

    def fill(self, teacher: Teacher, changed: Callable[[], None]) -> str:
        """Asks `teacher` until there are enough records, or a budget or its patience is used up, and returns which: "count", "dollars",
        "requests" or "patience".

        `changed` is called after each answer. Ctrl-C waits for answers that cost money; a second one doesn't.
        """
        before, indices = self.counts.copy(), itertools.count(self.next)
        self._fruitless, self._reasons = 0, Counter()
        concurrency = self._config.teacher.concurrency
        try:
            with ask_all(self._advance, indices, self._log, teacher, concurrency, self._useful, changed) as results:
                for _, drawn in results:
                    self._judge(drawn)
                    self._check_sense(self.counts - before)
                    changed()
                    if self.complete:
                        break
                    if self._fruitless >= self._patience:
                        return "patience"
        except OverBudget as over:
            self.judge_log(skip_gaps=True)  # indices after the one that could not be paid for
            return "count" if self.complete else over.limit
        return "count"

    def _useful(self) -> int:
        """How many indices may be out at once, so that hardly any is asked in vain: what is lacking over what an index gives."""
        each = max(len(self.kept), 1) / self.next if self.next else self._method.yields
        useful = math.ceil((self._config.count - len(self.kept)) / each)
        return useful if self.kept else min(useful, math.ceil(min(self._patience, MOST_AHEAD)))

    @property
    def _patience(self) -> float:
        return math.inf if self._config.patience is None else self._config.patience

    def fruitless(self) -> str:
        """What became of the requests since the last record that was kept, and what to change."""
        reasons = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in self._reasons.most_common())
        remedies = [REMEDIES[name] for name, _ in self._reasons.most_common(2) if name in REMEDIES]
        return (
            f"{self._fruitless} requests in a row gave no record that could be kept ({reasons or 'no task at all'}). "
            f"What to change: {'; '.join(remedies) or 'the teacher or the filters'}. (patience={self._config.patience})"
        )

    def _advance(self, index: int, answers: Sequence[Answer]) -> Request | Drawn:
        step = self._method.advance(index, answers, self._doomed)
        return step if isinstance(step, Request) else Drawn(step, answers[-1].model, len(answers))

    def _doomed(self, instruction: str) -> bool:
        # What is kept only grows, so a near-duplicate of today is one when its turn comes.
        return self._instruction_problem(instruction) is not None

    def _instruction_problem(self, instruction: str) -> str | None:
        if problem := instruction_problem(instruction, self._config.filters):
            return problem
        return "near_duplicate" if self._seen.holds(instruction) else None

    def _judge(self, drawn: Drawn) -> None:
        self._fruitless += drawn.requests
        for item in drawn.candidates:
            if self.complete:
                break
            problem = self._problem(item)
            self.counts[problem or "kept"] += 1
            self._reasons[problem or "kept"] += 1
            if problem is None:
                self._fruitless, self._reasons = 0, Counter()
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
