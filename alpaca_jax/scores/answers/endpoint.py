"""The answers of an endpoint, each asked and paid for once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.progress import ProgressBar
from alpaca_jax.scores.answers.answer import Answer, AnswerSet
from alpaca_jax.scores.answers.config import AnswersConfig
from alpaca_jax.scores.answers.kept import REMEDY, differing, rename
from alpaca_jax.scores.prompts import Prompt, PromptSet
from alpaca_jax.teacher import protocol
from alpaca_jax.teacher.address import shown
from alpaca_jax.teacher.asking import ask_all
from alpaca_jax.teacher.bill import Bill, OverBudget, prices
from alpaca_jax.teacher.client import Client, key
from alpaca_jax.teacher.config import TeacherConfig
from alpaca_jax.teacher.local import Endpoint, serving
from alpaca_jax.teacher.log import AnswerLog, files
from alpaca_jax.teacher.protocol import Request
from alpaca_jax.terminal import Console

STRIDE = 100_000  # more than a set has prompts
CHARACTERS = 4  # of English text in a token, about


@dataclasses.dataclass(frozen=True)
class Asking:
    """What is asked of one endpoint. An index of the log is STRIDE times the number of the seed, plus that of the prompt: more prompts or
    seeds leave those that are there in their place."""

    teacher: TeacherConfig
    prompts: PromptSet
    config: AnswersConfig

    def indices(self) -> list[int]:
        """Those of all answers that are wanted."""
        return [seed * STRIDE + place for place in range(len(self.prompts)) for seed in range(self.config.seeds)]

    def prompt(self, index: int) -> Prompt:
        """The prompt of an index."""
        return self.prompts.prompts[index % STRIDE]

    def advance(self, index: int, answers: Sequence[protocol.Answer]) -> Request | Answer:
        """The request for the next turn, or the whole answer."""
        prompt, seed = self.prompt(index), self.config.seed + index // STRIDE
        texts = [answer.text or "" for answer in answers]
        if len(texts) < len(prompt.turns):
            return Request(
                endpoint="chat",
                prompt=prompt.turns[len(texts)],
                max_tokens=self.config.max_tokens,
                temperature=self.config.settled_temperature,
                top_p=self.config.top_p,
                seed=seed % 2**31,
                system=prompt.system,
                earlier=tuple(zip(prompt.turns, texts, strict=False)),
            )
        counts = [answer.completion_tokens for answer in answers]
        tokens = None if None in counts else sum(count or 0 for count in counts)
        return Answer(texts[0], seed, answers[-1].finish_reason, tokens, tuple(texts[1:]))


def answer(name: str, teacher: TeacherConfig, prompts: PromptSet, config: AnswersConfig, folder: Path, console: Console) -> AnswerSet:
    """Returns what an endpoint answers to the prompts, `config.seeds` to each.

    `folder` gets the log, from which a second run takes what was answered; what it may cost at most is said before the first request. Where
    `config.dollars` are used up the rest is missing. A UserError where the log is of another endpoint, prompt set or sampling.
    """
    if teacher.endpoint != "chat":
        raise UserError(f"answers.others.{name}.endpoint={teacher.endpoint}: prompts are asked as a chat; give endpoint=chat")
    if len(prompts) > STRIDE:
        raise UserError(f"{prompts.place} has {len(prompts):,} prompts, and an endpoint is asked {STRIDE:,} at most: give answers.limit")
    asking = Asking(teacher, prompts, config)
    notes = _check(folder, _settings(asking), config.set_aside)
    bill = Bill(prices(teacher), config.dollars)
    log = AnswerLog(folder, _settings(asking), bill)
    notes += [f"damaged lines of the log, passed over: {len(log.damaged)} ({log.damaged[0]})"] if log.damaged else []
    missing = [index for index in asking.indices() if isinstance(log.follow(index, asking.advance)[1], Request)]
    if missing:
        key(teacher)
        _announce(name, asking, missing, bill, console)
        notes += _ask(name, asking, missing, log, folder, console)
    found: dict[str, list[Answer]] = {}
    for index in asking.indices():
        _, made = log.follow(index, asking.advance)
        if isinstance(made, Answer):
            found.setdefault(asking.prompt(index).id, []).append(made)
    model = str(teacher.model or teacher.source)
    source = str(teacher.source) if teacher.source is not None else f"{model} at {shown(teacher.base_url or 'the default address')}"
    return AnswerSet.of(name, source, prompts, found, model=model, notes=tuple(notes), bill=bill.figures())


def _ask(name: str, asking: Asking, missing: Sequence[int], log: AnswerLog, folder: Path, console: Console) -> list[str]:
    """Asks what is missing; returns in words what stopped it, if anything did."""
    teacher = asking.teacher
    longest = (
        max(len(prompt.text) for prompt in asking.prompts) + max(len(prompt.turns) for prompt in asking.prompts) * asking.config.max_tokens
    )
    with ProgressBar(f"answers of {name}", len(missing), console=console, transient=True) as bar:
        if teacher.source is None:
            return _ask_at(Endpoint(teacher.base_url, str(teacher.model)), asking, missing, log, bar)
        with serving(teacher, longest + 64, folder / "server.log", bar.notice) as endpoint:
            return _ask_at(endpoint, asking, missing, log, bar)


def _ask_at(endpoint: Endpoint, asking: Asking, missing: Sequence[int], log: AnswerLog, bar: ProgressBar) -> list[str]:
    client = Client(asking.teacher, endpoint.base_url, endpoint.model, log.bill, bar.notice)
    try:
        with ask_all(asking.advance, missing, log, client, asking.teacher.concurrency) as results:
            for _ in results:
                bar.advance()
    except OverBudget:
        return [f"answers.dollars={asking.config.dollars} were used up before all prompts were answered"]
    return []


def _announce(name: str, asking: Asking, missing: Sequence[int], bill: Bill, console: Console) -> None:
    """Says what the missing answers take, and cost at most, before the first of them is asked."""
    texts = [asking.prompt(index) for index in missing]
    sent = sum(len(prompt.text) * (len(prompt.turns) + 1) // 2 for prompt in texts) // CHARACTERS
    turns = sum(len(prompt.turns) for prompt in texts)
    most = turns * asking.config.max_tokens
    cost = (sent * bill.prices.dearest_prompt + most * bill.prices.completion) / 1e6
    said = f"{name}: {turns:,} requests, about {sent:,} tokens of prompts and at most {most:,} of answers"
    wall = f"; the budget is {asking.config.dollars:g} dollars" if asking.config.dollars is not None else ""
    price = f", about {cost:.2f} dollars at most ({bill.prices.source}){wall}" if bill.prices.any else ", free of charge"
    console.print(said + price, highlight=False, markup=False, soft_wrap=True)


def _settings(asking: Asking) -> dict[str, Any]:
    of_teacher = {f"teacher.{name}": getattr(asking.teacher, name) for name in ("source", "model", "endpoint")}
    return {"prompts": asking.prompts.whole, **asking.config.sampling(), **of_teacher}


def _check(folder: Path, settings: dict[str, Any], set_aside: bool) -> list[str]:
    """Renames the log of other settings, or raises a UserError that says what differs; returns what is to be told."""
    logs = files(folder)
    if not logs:
        return []
    try:
        with logs[0].open("rb") as opened:
            first = documents.json_value(opened.readline(documents.MAX_BYTES))
    except ValueError:
        return []  # the log itself says what is wrong
    different = differing(first.get("settings") if isinstance(first, dict) else None, settings)
    if different and not set_aside:
        raise UserError("\n  ".join([f"{logs[0]} holds answers that were made with other settings:", *different, REMEDY]))
    return [f"earlier answers with other settings are in {rename(folder)}"] if different else []
