"""A judge on loopback with a known taste: quality, the first place and length by given logits, and noise; it gives verdicts in any way."""

import dataclasses
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from scripted_teacher import Reply, answer, error

_PART = re.compile(r"\[([0-9a-f]{8}) (instruction|answer A|answer B)(?:, turn \d+)?\]\n(.*?)\n\[\1 end of", re.S)
_QUALITY = re.compile(r"\{q(-?\d+\.\d+)\}")


def quality(logits: float) -> str:
    """What gives the text that holds it a quality of so many logits."""
    return f"{{q{logits:.4f}}}"


@dataclasses.dataclass
class ScriptedJudge:
    """The script of a server; an answer has the quality that `quality` wrote into it, and a prompt with other marks is no prompt of ours.

    `asked` counts the prompts that got an answer (and cost money), each under its text, whatever the seed.
    """

    gives: str = "logprobs"  # logprobs; letter: refuses the parameter; ignores: takes it and does nothing; json: reads no letter either
    position: float = 0.0
    length: float = 0.0  # logits for the tanh of a difference of 100 characters
    noise: float = 0.0  # the deviation of each call
    says: str | None = None  # always, instead of a verdict
    trouble: Callable[[int, dict[str, Any]], Reply | None] = lambda number, body: None  # before anything else
    delay: float = 0.0
    usage: tuple[int, int] = (400, 2)
    seed: int = 0
    asked: Counter[str] = dataclasses.field(default_factory=Counter)
    calls: int = 0  # requests of all kinds

    def __call__(self, number: int, body: dict[str, Any]) -> Reply | None:
        self.calls += 1
        chat = "messages" in body
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if (reply := self.trouble(number, body)) is not None:
            return reply
        wants = bool(body.get("logprobs"))
        if wants and self.gives in ("letter", "json"):
            return error(400, "logprobs is not supported by this model")
        logits = self.logits(prompt, body.get("seed", 0))
        self.asked[prompt] += 1
        if self.says is not None:
            return Reply(answer(self.says, body, usage=self.usage), delay=self.delay)
        letter = "A" if self._uniform(prompt, body.get("seed", 0), "verdict") < 1 / (1 + math.exp(-logits)) else "B"
        if self.gives == "json":
            said = json.dumps({"verdict": letter}) if '{"verdict"' in prompt else "Both have their merits."
        else:
            said = letter if chat else f" {letter}"
        made = answer(said, body, usage=self.usage)
        if wants and self.gives == "logprobs":
            made["choices"][0]["logprobs"] = _logprobs(logits, letter, chat)
        return Reply(made, delay=self.delay)

    def logits(self, prompt: str, seed: int) -> float:
        """The log odds with which the first answer is preferred."""
        first, second = ("\n".join(text for _, name, text in _PART.findall(prompt) if name == which) for which in ("answer A", "answer B"))
        better = sum(map(float, _QUALITY.findall(first))) - sum(map(float, _QUALITY.findall(second)))
        longer = math.tanh((len(first) - len(second)) / 100)
        drawn = math.sqrt(-2 * math.log(self._uniform(prompt, seed, "u"))) * math.cos(2 * math.pi * self._uniform(prompt, seed, "v"))
        return better + self.position + self.length * longer + self.noise * drawn

    def _uniform(self, prompt: str, seed: int, what: str) -> float:
        digest = hashlib.sha256(f"{self.seed}/{seed}/{what}/{prompt}".encode()).digest()
        return (int.from_bytes(digest[:7], "big") + 0.5) / 2**56


def _logprobs(logits: float, letter: str, chat: bool) -> dict[str, Any]:
    """95 % of the probability on the labels, a part of it on another spelling."""
    first = 0.95 / (1 + math.exp(-logits))
    shares = {"A": 0.9 * first, " A": 0.1 * first, "B": 0.95 - first, "The": 0.05}
    top = {token: math.log(share) for token, share in shares.items() if share > 0}
    if not chat:
        return {"tokens": [letter], "token_logprobs": [top.get(letter)], "top_logprobs": [top], "text_offset": [0]}
    entries = [{"token": token, "logprob": value, "bytes": None} for token, value in top.items()]
    chosen = next(entry for entry in entries if entry["token"] == letter) if letter in top else entries[0]
    return {"content": [{**chosen, "top_logprobs": entries}]}
