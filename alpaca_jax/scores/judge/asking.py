"""Asks a judge about pairs of answers, each once: what its log of verdicts holds is never asked again."""

import dataclasses
import hashlib
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from alpaca_jax.errors import UserError
from alpaca_jax.progress import ProgressBar
from alpaca_jax.scores.judge import choice as choices
from alpaca_jax.scores.judge import verdict
from alpaca_jax.scores.judge.choice import Choice
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.judge.prompt import Pair
from alpaca_jax.teacher.asking import ask_all
from alpaca_jax.teacher.bill import Bill, OverBudget, prices
from alpaca_jax.teacher.client import Client, key
from alpaca_jax.teacher.local import answering
from alpaca_jax.teacher.log import AnswerLog
from alpaca_jax.teacher.protocol import Answer, Entry, Refused, Request, Teacher

LOG = "verdicts"  # a folder
RETRY_TEMPERATURE = 0.7  # at least, when a verdict is asked for again: at 0 the same words would come back
FRUITLESS = 12  # pairs without a readable verdict, and none with one, after which a judge is given up
# Where no answer of the judge has shown it; of such prompts SmolLM2's tokenizer makes a token for 3.65 bytes, LLaMA's for 3.45.
BYTES_OF_A_TOKEN = 3.5
SAID = {"logprobs": 2, "letter": 2, "json": 12}  # tokens of a verdict, about
LEAST_CONTEXT = 2.5  # bytes of a token in the longest prompt that a server of our own must have room for
OF_A_REQUEST = (400, 413, 422)  # refusals of what is asked rather than of who asks
REFUSED = "refused"  # in the place of a finish_reason: the endpoint won't answer this very request


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The probability with which the first answer is preferred (a tie: 0.5), or None and why there is none."""

    preferred: float | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Judged:
    """The verdicts on the pairs, in their order; one without a verdict has a problem: "unreadable", "refused", or "not asked"."""

    verdicts: tuple[Verdict, ...]
    choice: Choice
    stopped_by: str  # "dollars" where the budget ended it, else ""
    damaged: int  # lines of the log that could not be read

    @property
    def problems(self) -> dict[str, int]:
        """How many pairs have no verdict, by why."""
        return dict(Counter(verdict.problem for verdict in self.verdicts if verdict.problem))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What verdicts that are still to be asked for will take, computed from the texts."""

    pairs: int
    logged: int  # verdicts that are in the log already
    tokens: int
    dollars: float
    bytes_of_a_token: float
    measured: bool  # whether that figure is from this judge's own counts


class Judge:
    """A judge with its log in `folder`, a folder of its own on a disk; `say` gets a line for a person."""

    def __init__(self, config: JudgeConfig, folder: Path, say: Callable[[str], None]) -> None:
        self.config, self.folder = config, folder
        self.name = str(config.teacher.model or config.teacher.source)
        self.bill = Bill(prices(config.teacher), config.max_dollars)
        self.log = AnswerLog(folder / LOG, {"judge": config.teacher.model, "source": config.teacher.source}, self.bill)
        self.refusals: list[str] = []
        self._say = say
        self._indices: dict[bytes, int] = {}
        self._requests: dict[int, Request] = {}  # the first of each index that is asked for
        self._refused: dict[int, Verdict] = {}  # in this run: a refusal costs nothing, and is not logged
        self._counted = [0, 0]  # bytes and tokens of logged prompts
        for index, request, answer in self.log.first_requests():
            self._indices.setdefault(_key(request), index)
            if answer.prompt_tokens:
                self._counted[0] += len(request.prompt.encode("utf-8", "replace"))
                self._counted[1] += answer.prompt_tokens
        self._end = self.log.end

    def judge(self, pairs: Sequence[Pair], about: str = "") -> Judged:
        """The verdicts on all pairs; those that are not in the log are asked for, once their cost is said.

        Lost if the judge is gone; UserError if it refuses or answers with nothing that is a verdict. What was paid for is in the log then.
        """
        choice = choices.kept(self.folder, self.config)
        guess = choice or (choices.LOGPROBS if self.config.mode == "auto" else choices.OF_MODE[self.config.mode])
        self._say(self.announcement(self.estimate(pairs, guess), about))
        stopped_by = ""
        if choice is None or any(map(self._open, self._places(pairs, choice), [choice] * len(pairs))):
            choice, stopped_by = self._ask(pairs, choice)
        places = self._places(pairs, choice)
        found = tuple(self._logged(place, choice) for place in places)
        return Judged(found, choice, stopped_by, len(self.log.damaged))

    def estimate(self, pairs: Sequence[Pair], choice: Choice) -> Estimate:
        """What asking for the verdicts that are not in the log takes."""
        requests = {place: self._requests[place] for place in self._places(pairs, choice) if self._open(place, choice)}
        measured = self._counted[1] > 0
        ratio = self._counted[0] / self._counted[1] if measured else BYTES_OF_A_TOKEN
        prompt = sum(len(request.prompt.encode()) for request in requests.values()) / ratio
        said = len(requests) * (self.config.max_tokens or SAID[choice.mode])
        price = self.bill.prices
        return Estimate(
            pairs=len(pairs),
            logged=len(pairs) - len(requests),
            tokens=math.ceil(prompt + said),
            dollars=(prompt * price.prompt + said * price.completion) / 1e6,
            bytes_of_a_token=ratio,
            measured=measured,
        )

    def announcement(self, estimate: Estimate, about: str = "") -> str:
        """The line that is said before the first request."""
        asked = estimate.pairs - estimate.logged
        head = f"judge {self.name}: {estimate.pairs} verdicts{about}, {estimate.logged} of them in the log"
        if not asked:
            return f"{head}; nothing is asked"
        how = f"at {estimate.bytes_of_a_token:.2f} bytes a token, {'measured on its answers' if estimate.measured else 'computed'}"
        line = f"{head}; {asked} to ask, about {estimate.tokens / 1e6:.3f} M tokens ({how}) and {estimate.dollars:.4f} dollars"
        spent, most = self.bill.dollars + self.bill.doubtful, self.config.max_dollars
        if most is None or not self.bill.prices.any:
            return line
        line += f"; {spent:.4f} of {most:g} dollars are spent"
        return line + (" and the rest won't suffice for all of them" if spent + estimate.dollars > most else "")

    def _ask(self, pairs: Sequence[Pair], choice: Choice | None) -> tuple[Choice, str]:
        """Asks for all that is missing; returns the choice, and "dollars" where the budget ended it."""
        key(self.config.teacher)
        longest = max(len(choices.JSON.request(pair, self.config).prompt.encode()) for pair in pairs)
        context = math.ceil(longest / LEAST_CONTEXT) + (self.config.max_tokens or choices.TOKENS["json"])
        with (
            ProgressBar("verdicts", len(pairs)) as bar,
            answering(self.config.teacher, context, self.folder / "judge.log", bar.notice) as endpoint,
        ):
            client = Client(self.config.teacher, endpoint.base_url, endpoint.model, self.bill, bar.notice)
            try:
                if choice is None:
                    choice = choices.choose(self.config, pairs, lambda request: self._once(request, client))
                    choices.keep(self.folder, self.config, choice)
                    self._say(f"{choice.why}: mode={choice.mode}")
                self._fill(self._places(pairs, choice), choice, _Lenient(client, self.refusals), bar)
            except OverBudget as over:
                if choice is None:
                    raise UserError(
                        f"compare.max_dollars={self.config.max_dollars:g} doesn't allow one more verdict of the judge; give more"
                    ) from None
                return choice, over.limit
        return choice, ""

    def _fill(self, places: Sequence[int], choice: Choice, teacher: Teacher, bar: ProgressBar) -> None:
        places = list(dict.fromkeys(places))
        readable, fruitless, done = False, 0, 0
        with ask_all(self._advance(choice), places, self.log, teacher, self.config.teacher.concurrency) as results:
            for place, found in results:
                done += 1
                if found.problem == "refused":
                    self._refused[place] = found
                readable, fruitless = readable or found.preferred is not None, fruitless + 1
                bar.update(done, f"{self.bill.dollars + self.bill.doubtful:.4f} dollars" if self.bill.prices.any else "")
                if not readable and fruitless >= FRUITLESS:
                    raise UserError(
                        f"the judge {self.name} gave no readable verdict on {fruitless} pairs "
                        f"and on none before ({self.refusals[-1] if self.refusals else found.problem}); look into {self.log.folder}, or "
                        "give another compare.teacher or compare.mode"
                    )

    def _once(self, request: Request, client: Client) -> Answer | Refused:
        """The first answer to a request, from the log where it is there, or the refusal."""

        def advance(index: int, answers: Sequence[Answer]) -> Request | Answer:
            return answers[0] if answers else request

        try:
            with ask_all(advance, [self._place(request)], self.log, client, 1) as results:
                return next(results)[1]
        except Refused as refused:
            if refused.status not in choices.NOT_GIVEN:
                raise
            return refused

    def _advance(self, choice: Choice) -> Callable[[int, Sequence[Answer]], Request | Verdict]:
        def advance(index: int, answers: Sequence[Answer]) -> Request | Verdict:
            for answer in answers:
                if (preferred := verdict.read(answer, choice.mode)) is not None:
                    return Verdict(preferred)
            if answers and answers[-1].finish_reason == REFUSED:
                return Verdict(None, "refused")
            if len(answers) > self.config.retries:
                return Verdict(None, "unreadable")
            first = self._requests[index]
            if not answers:
                return first
            return dataclasses.replace(first, seed=len(answers), temperature=max(first.temperature, RETRY_TEMPERATURE))

        return advance

    def _places(self, pairs: Sequence[Pair], choice: Choice) -> list[int]:
        return [self._place(choice.request(pair, self.config)) for pair in pairs]

    def _place(self, request: Request) -> int:
        """The index of a request in the log: that of the very same one before, else the next that is free."""
        if (index := self._indices.setdefault(_key(request), self._end)) == self._end:
            self._end += 1
        self._requests[index] = request
        return index

    def _logged(self, place: int, choice: Choice) -> Verdict:
        _, found = self.log.follow(place, self._advance(choice))
        return self._refused.get(place, Verdict(None, "not asked")) if isinstance(found, Request) else found

    def _open(self, place: int, choice: Choice) -> bool:
        return self._logged(place, choice).problem == "not asked"


class _Lenient:
    """A teacher whose refusal of a single request, as too long or improper, is an answer without a text; nothing of it is logged."""

    def __init__(self, teacher: Teacher, refusals: list[str]) -> None:
        self._teacher, self._refusals = teacher, refusals

    def ask(self, request: Request, stop: threading.Event, entry: Entry) -> Answer:
        try:
            return self._teacher.ask(request, stop, entry)
        except Refused as refused:
            if refused.status not in OF_A_REQUEST:
                raise
            self._refusals.append(refused.said)
            return Answer(text=None, finish_reason=REFUSED, model="", prompt_tokens=None, completion_tokens=None, seconds=0.0)


def folder_name(config: JudgeConfig) -> str:
    """The name of the folder for the verdicts of a judge: its own, so that each has its log and its bill."""
    name = str(config.teacher.model or config.teacher.source)
    digest = hashlib.sha256(repr((config.teacher.model, config.teacher.source)).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', name).strip('-.')[-60:]}-{digest[:8]}"


def _key(request: Request) -> bytes:
    return hashlib.sha256(repr(dataclasses.astuple(request)).encode("utf-8", "replace")).digest()
