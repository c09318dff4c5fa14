"""Pairs: several answers of a teacher to each prompt, put in order by a judge or by their length; or what an evaluation preferred.

Order by a judge is AI feedback as in UltraFeedback (arXiv:2310.01377), here by pairwise verdicts in both orders: of the answers to a prompt
the one with the most points is chosen, the one with the fewest is rejected.
"""

import contextlib
import dataclasses
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from alpaca_jax import storage
from alpaca_jax.errors import Lost, UserError
from alpaca_jax.generate.config import Config
from alpaca_jax.generate.dedupe import Evaluations
from alpaca_jax.generate.filters import answer_problem
from alpaca_jax.generate.methods import request_seed
from alpaca_jax.records import Record
from alpaca_jax.scores import preferred, prompts
from alpaca_jax.scores.judge.asking import Judge, folder_name
from alpaca_jax.scores.judge.prompt import Pair
from alpaca_jax.scores.prompts import Prompt
from alpaca_jax.scores.rewarding import rewards
from alpaca_jax.teacher.asking import ask_all
from alpaca_jax.teacher.bill import OverBudget
from alpaca_jax.teacher.log import AnswerLog
from alpaca_jax.teacher.protocol import Answer, Request, Teacher

JUDGE = "judge"  # a folder


@dataclasses.dataclass(frozen=True)
class Said:
    """An answer that may be learnt from, with the number of its request."""

    text: str
    number: int
    model: str


@dataclasses.dataclass(frozen=True)
class Answered:
    """A prompt with its different answers."""

    index: int
    prompt: Prompt
    said: tuple[Said, ...]


class Pairs:
    """The pairs of one run: asks, filters, orders; `kept` are its records, `counts` what became of the prompts."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.kept: list[Record] = []
        self.counts: Counter[str] = Counter()
        self.judge: Judge | None = None
        self.fingerprint, self.prompts = ("", {}) if config.pairs.prompts is None else _prompts(config, self.counts)

    @property
    def longest(self) -> int:
        """Approximate tokens of the longest prompt with its answer."""
        return (
            max((len(prompt.text) + len(prompt.system) for prompt in self.prompts.values()), default=0) // 2
            + 64
            + self.config.sampling.max_tokens
        )

    def ask(self, log: AnswerLog, teacher: Teacher, changed: Callable[[int], None]) -> str:
        """Asks for all answers that the log hasn't, and returns what ended it: "count", "dollars" or "requests"."""
        done = 0
        try:
            with ask_all(self._advance, self.prompts, log, teacher, self.config.teacher.concurrency) as results:
                for done, _ in enumerate(results, start=1):
                    changed(done)
        except OverBudget as over:
            return over.limit
        return "count"

    def of_answers(self, log: AnswerLog, folder: Path, say: Callable[[str], None]) -> str:
        """Makes the pairs of all prompts whose answers are in the log; returns "dollars" where the judge's budget ended it, else ""."""
        answered = [each for index in self.prompts if (each := self._logged(index, log)) is not None]
        if self.config.pairs.by == "judge":
            points, stopped_by = self._judged(answered, folder, say)
        elif self.config.pairs.by == "reward":
            points, stopped_by = self._rewarded(answered, say), ""
        else:
            sign = -1 if self.config.pairs.by == "shorter" else 1
            points, stopped_by = [[sign * float(len(said.text)) for said in each.said] for each in answered], ""
        for each, own in zip(answered, points, strict=True):
            self._pair(each, own)
        return stopped_by

    def of_evaluation(self) -> None:
        """Makes the pairs that an evaluation's judge, or the people who voted on it, preferred."""
        pairs = self.config.pairs
        found, counted = preferred.read(storage.at(str(pairs.evaluation)) / "evaluate", pairs.said_by)
        self.counts.update(counted)
        evaluations = Evaluations(self.config.decontaminate or (), self.config.filters.rouge_l)
        for each in found[: self.config.count]:
            problem = next((problem for text in (each.chosen, each.rejected) if (problem := self._problem(text, False))), None)
            if evaluations.hold(each.prompt.instruction, each.prompt.input):
                problem = "evaluation_set"
            if problem is None and each.margin < pairs.margin:
                problem = "close"
            self.counts[problem or "kept"] += 1
            if problem is None:
                winner, loser = each.models
                provenance = {"method": "pairs", "teacher": winner, "rejected": loser, "by": each.by, "margin": round(each.margin, 4)}
                self.kept.append(_record(each.prompt, each.chosen, each.rejected, provenance))

    def _advance(self, index: int, answers: Sequence[Answer]) -> Request | list[Answer]:
        if len(answers) == self.config.pairs.answers:
            return list(answers)
        prompt, sampling = self.prompts[index], self.config.sampling
        return Request(
            endpoint="chat",
            prompt=prompt.turns[0],
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=request_seed(self.config.seed, index, len(answers)),
            system=prompt.system,
        )

    def _logged(self, index: int, log: AnswerLog) -> Answered | None:
        """The prompt of this index with its answers; None, counted, where there are no two different ones that may be learnt from."""
        _, answers = log.follow(index, self._advance)
        if isinstance(answers, Request):
            self.counts["unanswered"] += 1
            return None
        said, problems = dict[str, Said](), Counter[str]()
        for number, answer in enumerate(answers):
            text = (answer.text or "").strip()
            problem = self._problem(text, answer.finish_reason == "length") or ("same_answer" if text in said else None)
            if problem is None:
                said[text] = Said(text, number, answer.model)
            else:
                problems[problem] += 1
        if len(said) < 2:
            self.counts[f"no_two_answers_{problems.most_common(1)[0][0]}"] += 1
            return None
        return Answered(index, self.prompts[index], tuple(said.values()))

    def _problem(self, text: str, cut: bool) -> str | None:
        return answer_problem(text, cut, self.config.filters)

    def _judged(self, answered: Sequence[Answered], folder: Path, say: Callable[[str], None]) -> tuple[list[list[float]], str]:
        """The points of each answer, its mean preference over all others of its prompt; none where a verdict is lacking."""
        judge = self.config.compare
        assert judge is not None
        meetings = [(place, *two) for place, each in enumerate(answered) for two in itertools.combinations(range(len(each.said)), 2)]
        shown = [pair for place, one, two in meetings for pair in _shown(answered[place], one, two)]
        if not shown:
            return [[] for _ in answered], ""
        with _named():
            self.judge = Judge(judge, folder / JUDGE / folder_name(judge), say)
            judged = self.judge.judge(shown, f" on {len(answered)} prompts in both orders")
        given = iter(judged.verdicts)
        points = [defaultdict[int, list[float | None]](list) for _ in answered]
        for place, one, two in meetings:
            first, second = next(given).preferred, next(given).preferred
            mean = None if first is None or second is None else (first + 1 - second) / 2
            points[place][one].append(mean)
            points[place][two].append(None if mean is None else 1 - mean)
        return [_means(own) for own in points], judged.stopped_by

    def _rewarded(self, answered: Sequence[Answered], say: Callable[[str], None]) -> list[list[float]]:
        """The reward of each answer by the reward model."""
        source = str(self.config.pairs.reward)
        records = [
            Record(each.prompt.instruction, each.prompt.input, said.text, system=each.prompt.system)
            for each in answered
            for said in each.said
        ]
        say(f"{source} scores {len(records):,} answers to {len(answered):,} prompts")
        found = iter(rewards(source, records))
        return [[next(found) for _ in each.said] for each in answered]

    def _pair(self, answered: Answered, points: Sequence[float]) -> None:
        if not points:
            self.counts["not_judged"] += 1
            return
        best, worst = (max, min)  # of equal points the earlier answer
        chosen, rejected = (pick(range(len(points)), key=points.__getitem__) for pick in (best, worst))
        margin, pairs = points[chosen] - points[rejected], self.config.pairs
        if pairs.by == "reward":
            margin = math.tanh(margin / 2)  # 2 sigmoid(margin) - 1: how much surer than chance the model is
            if pairs.least is not None and points[chosen] < pairs.least:
                self.counts["below_least"] += 1
                return
        if margin <= 0 or (pairs.by in ("judge", "reward") and margin < pairs.margin):
            self.counts["close" if margin > 0 else "tied"] += 1
            return
        self.counts["kept"] += 1
        one, two = answered.said[chosen], answered.said[rejected]
        provenance = {"method": "pairs", "teacher": one.model, "index": answered.index, "answers": [one.number, two.number]}
        provenance |= {"by": self.judge.name if self.judge else self.config.pairs.by, "margin": round(margin, 4), "of": len(points)}
        self.kept.append(_record(answered.prompt, one.text, two.text, provenance))


def _prompts(config: Config, counts: Counter[str]) -> tuple[str, dict[int, Prompt]]:
    """The fingerprint of the file, and its first `count` prompts by number; those of several turns, or of evaluation sets, don't count."""
    evaluations = Evaluations(config.decontaminate or (), config.filters.rouge_l)
    whole, found = prompts.read(str(config.pairs.prompts), "pairs.prompts"), dict[int, Prompt]()
    for number, prompt in enumerate(whole):
        if len(found) == config.count:
            break
        if len(prompt.turns) > 1:
            counts["several_turns"] += 1
        elif evaluations.hold(prompt.instruction, prompt.input):
            counts["evaluation_set"] += 1
        else:
            found[number] = prompt
    if not found:
        raise UserError(f"pairs.prompts={config.pairs.prompts}: no prompt is left to ask ({dict(counts)}); give others")
    return whole.fingerprint, found


def _record(prompt: Prompt, chosen: str, rejected: str, provenance: dict[str, object]) -> Record:
    return Record(prompt.instruction, prompt.input, chosen, provenance=provenance, system=prompt.system, rejected=rejected)


def _shown(answered: Answered, one: int, two: int) -> tuple[Pair, Pair]:
    """What the judge sees of two answers: each of them first."""
    turns, system = answered.prompt.turns, answered.prompt.system
    first, second = (answered.said[one].text,), (answered.said[two].text,)
    return Pair(turns, first, second, system), Pair(turns, second, first, system)


def _means(points: dict[int, list[float | None]]) -> list[float]:
    """The mean of each answer's points; none at all where one is lacking, since it would tell against the others."""
    rows = [points[place] for place in sorted(points)]
    return [] if any(each is None for row in rows for each in row) else [sum(filter(None, row)) / len(row) for row in rows]


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """A context whose errors name the judge's settings where they lie."""
    try:
        yield
    except (UserError, Lost) as error:
        kind = UserError if isinstance(error, UserError) else Lost
        raise kind(re.sub(r"(?<![\w.])teacher(?=[.=])", "compare.teacher", str(error))) from None
