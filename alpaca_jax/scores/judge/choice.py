"""How a judge gives its verdicts: learnt by asking it once, and kept."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import read_json, write_json
from alpaca_jax.scores.judge import prompt, verdict
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.judge.prompt import Mode, Pair
from alpaca_jax.teacher.protocol import Answer, Refused, Request

FILE = "choices.json"
TOP = {"chat": 20, "completions": 5}  # the most alternatives that OpenAI's endpoints give
TOKENS: dict[Mode, int] = {"logprobs": 8, "letter": 8, "json": 64}
NOT_GIVEN = (400, 403, 422)  # the answers of servers to a parameter that they don't take

# Asks once, and returns what came back.
Ask = Callable[[Request], Answer | Refused]


@dataclasses.dataclass(frozen=True)
class Choice:
    """How verdicts are given, whether log-probabilities are asked for, and how that came to be, in words."""

    mode: Mode
    asks_top: bool
    why: str

    def request(self, pair: Pair, config: JudgeConfig) -> Request:
        """What a judge is asked about a pair. Whatever is in it decides which answer in the log is the answer to it."""
        endpoint = config.teacher.endpoint
        return Request(
            endpoint=endpoint,
            prompt=prompt.render(pair, self.mode, chat=endpoint == "chat"),
            max_tokens=config.max_tokens or TOKENS[self.mode],
            temperature=config.temperature,
            top_p=1.0,
            seed=0,
            top_logprobs=TOP[endpoint] if self.asks_top else 0,
        )


LOGPROBS = Choice("logprobs", True, "the judge gives log-probabilities of the labels")
LETTER = Choice("letter", False, "the judge answers with a letter")
JSON = Choice("json", False, "the judge answers with a JSON object")
OF_MODE = {choice.mode: choice for choice in (LOGPROBS, LETTER, JSON)}


def kept(folder: Path, config: JudgeConfig) -> Choice | None:
    """The choice that an earlier run made, None if none did."""
    path = folder / FILE
    found = read_json(path).get(_name(config)) if path.is_file() else None
    if not isinstance(found, dict) or found.get("mode") not in OF_MODE:
        return None
    return Choice(found["mode"], found.get("asks_top") is True, str(found.get("why", "")))


def keep(folder: Path, config: JudgeConfig, choice: Choice) -> None:
    """Keeps a choice for later runs."""
    path = folder / FILE
    write_json(path, (read_json(path) if path.is_file() else {}) | {_name(config): dataclasses.asdict(choice)})


def choose(config: JudgeConfig, pairs: Sequence[Pair], ask: Ask) -> Choice:
    """The best way of those that `config.mode` allows in which the judge gives a verdict; a UserError if it gives none."""
    heard = list[str]()
    places = sorted({0, len(pairs) // 2, len(pairs) - 1})
    for place in places:
        if (choice := _tried(config, pairs[place], ask, heard)) is not None:
            return choice
    said = heard[-1] if heard else "nothing"
    other = "or compare.mode=auto" if config.mode != "auto" else "it can't judge"
    raise UserError(
        f"the judge {config.teacher.model or config.teacher.source} gives no verdict on {len(places)} pairs; it said: {said}. "
        f"Give another compare.teacher, {other}"
    )


def _tried(config: JudgeConfig, pair: Pair, ask: Ask, heard: list[str]) -> Choice | None:
    """The best way in which the judge gives a verdict on this pair; what it said instead is added to `heard`."""
    wanted = [OF_MODE[config.mode]] if config.mode != "auto" else [LOGPROBS, LETTER, JSON]
    why = ""
    while wanted:
        choice = wanted.pop(0)
        answer = ask(choice.request(pair, config))
        if isinstance(answer, Refused):
            heard.append(answer.said)
            if choice.mode == "logprobs":
                why = f" (asked for log-probabilities, it answered {answer.status})"
            continue
        if verdict.read(answer, choice.mode) is not None:
            return dataclasses.replace(choice, why=choice.why + why)
        heard.append(repr((answer.text or "")[:100]))
        if choice.mode == "logprobs" and wanted:
            why = (
                " (its log-probabilities are not those of labels)" if verdict.shows_logprobs(answer) else " (it gives no log-probabilities)"
            )
            # The same answer may have the letter: then the same request goes on being made, and none is paid for twice.
            wanted.remove(LETTER)
            if verdict.read(answer, "letter") is not None:
                return Choice("letter", True, LETTER.why + why)
    return None


def _name(config: JudgeConfig) -> str:
    return f"{prompt.VERSION}, {config.teacher.endpoint}, {config.mode}"
