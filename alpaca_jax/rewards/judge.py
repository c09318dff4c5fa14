"""A judge as a reward: an endpoint grades each answer from 1 to 10, each once; what its log holds is never asked again."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from alpaca_jax.errors import UserError
from alpaca_jax.rewards.config import JudgeRewardConfig
from alpaca_jax.rewards.sandbox import Ran
from alpaca_jax.teacher.asking import ask_all
from alpaca_jax.teacher.bill import Bill, OverBudget, prices
from alpaca_jax.teacher.client import Client
from alpaca_jax.teacher.log import AnswerLog
from alpaca_jax.teacher.protocol import Answer, Request

GRADE = re.compile(r"\b(10|[1-9])\b")
ASKED = (
    "Here are an instruction and an answer to it. How good is the answer? {criterion}\n\n[Instruction]\n{prompt}\n\n[Answer]\n{answer}\n\n"
    "Reply with one whole number from 1 (useless) to 10 (perfect), and nothing else."
)
AGAIN = 0.7  # the temperature when a grade is asked for again: at 0 the same words would come back


class Grader:
    """The judge of one reward, with its log in `folder`."""

    def __init__(self, name: str, config: JudgeRewardConfig, folder: Path) -> None:
        if config.teacher.source is not None or config.teacher.model is None:
            raise UserError(
                f"reward {name}: a judge is asked at every step: serve it (alpaca-jax serve model.source=NAME), and give "
                "teacher.base_url and teacher.model, and no teacher.source"
            )
        self._name, self._config = name, config
        self._bill = Bill(prices(config.teacher), config.max_dollars)
        self._log = AnswerLog(folder, {"judge": config.teacher.model, "source": None}, self._bill)
        self._client = Client(config.teacher, config.teacher.base_url, config.teacher.model, self._bill, lambda message: None)
        self._indices = {_key(request): index for index, request, _ in self._log.first_requests()}

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Ran]:
        """The grade of each (prompt, answer) as a number from 0 to 1, or why there is none."""
        requests = {self._place(request): request for request in map(self._request, pairs)}

        def advance(index: int, answers: Sequence[Answer]) -> Request | Ran:
            for answer in answers:
                if found := GRADE.search(answer.text or ""):
                    return Ran((int(found[1]) - 1) / 9)
            if len(answers) > self._config.retries:
                return Ran(None, f"gave no grade: {(answers[-1].text or 'nothing')[:80]!r}")
            first = requests[index]
            return dataclasses.replace(first, temperature=AGAIN, seed=len(answers)) if answers else first

        try:
            with ask_all(advance, list(requests), self._log, self._client, self._config.teacher.concurrency) as results:
                grades = dict(results)
        except OverBudget as over:
            raise UserError(f"reward {self._name}: max_dollars={self._config.max_dollars} are spent ({over.limit}): give more") from None
        return [grades[self._place(self._request(pair))] for pair in pairs]

    def _request(self, pair: tuple[str, str]) -> Request:
        text = ASKED.format(criterion=self._config.criterion, prompt=pair[0], answer=pair[1])
        tokens = self._config.max_tokens
        return Request(endpoint=self._config.teacher.endpoint, prompt=text, max_tokens=tokens, temperature=0.0, top_p=1.0, seed=0)

    def _place(self, request: Request) -> int:
        return self._indices.setdefault(_key(request), len(self._indices))


def _key(request: Request) -> bytes:
    return hashlib.sha256(repr(dataclasses.astuple(request)).encode("utf-8", "replace")).digest()
