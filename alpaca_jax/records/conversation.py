"""Conversations: `messages` (role, content) and ShareGPT (from, value), under either name."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from alpaca_jax.records import keys

CONVERSATIONS = {"messages": ("role", "content"), "conversations": ("from", "value")}
# Roles by the names that exports of ShareGPT use.
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
TOOL_ROLES = (
    *("tool", "tool_call", "tool_response", "tool_result"),
    *("function", "function_call", "function_response", "observation", "ipython"),
)
TEXT_PARTS = ("text", "input_text", "output_text")
READ = frozenset(("role", "content", "from", "value", *keys.FLAGS, *keys.REASONING))


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one side says; `learnt` is None where the file doesn't say."""

    number: int
    role: Any
    text: str
    learnt: bool | None
    reasoning: str


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation in pairs of (user, assistant); see `Record` for `shown` and `reasoning`."""

    system: str
    exchanges: list[tuple[str, str]]
    shown: tuple[int, ...]
    reasoning: tuple[str, ...]
    shortened: bool  # it lost a first answer without its question, or a last question without its answer

    @property
    def texts(self) -> list[str]:
        """All that is said."""
        return [self.system, *(text for exchange in self.exchanges for text in exchange)]

    @classmethod
    def of(cls, turns: Any, key: str, noted: Counter[str]) -> "Conversation":
        """Returns the conversation that `turns`, the value of `key`, holds; a ValueError names the turn that is wrong."""
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise ValueError(_due(key))
        said = [_turn(turn, number, key, noted) for number, turn in enumerate(turns, start=1)]
        system = said[0].text if said and said[0].role == "system" else ""
        whole = said[1:] if said and said[0].role == "system" else said
        # Exports that were split into parts may begin with an answer and end with a question.
        talk = whole[1:] if whole and whole[0].role == "assistant" else whole
        if len(talk) % 2 and talk[-1].role == "user":
            talk = talk[:-1]
        if not talk:
            raise ValueError(f"{key} must have a user's turn and an assistant's answer")
        for place, turn in enumerate(talk):
            _check_order(turn, ("user", "assistant")[place % 2], key)
        answers = talk[1::2]
        reasoning = tuple(turn.reasoning for turn in answers)
        return cls(
            system,
            [(asked.text, answer.text) for asked, answer in zip(talk[::2], answers, strict=True)],
            tuple(number for number, turn in enumerate(answers) if turn.learnt is False),
            reasoning if any(reasoning) else (),
            len(talk) < len(whole),
        )


def _turn(turn: Mapping[str, Any], number: int, key: str, noted: Counter[str]) -> Turn:
    where = f"turn {number} of {key}, "
    role = _either(turn, ("role", "from"), where)
    role = SPEAKERS.get(str(role), role)
    if str(role).lower().replace("-", "_") in TOOL_ROLES:
        raise ValueError(f"turn {number} of {key} is by {role}: {keys.TOOLS}")
    keys.check(turn, where, READ, noted, f"{key}[].")
    content = _either(turn, ("content", "value"), where)
    text = _parts(content, where) if isinstance(content, list) else content
    if not isinstance(text, str):
        raise ValueError(_due(key))
    learnt, reasoning = keys.flag(turn, where), keys.reasoning(turn, where)
    if role != "assistant" and (learnt or reasoning):
        what = "has reasoning" if reasoning else "is marked as learnt"
        raise ValueError(f"turn {number} of {key} {what}, and is by {role}: only the assistant's turns are learnt")
    return Turn(number, role, text, learnt, reasoning)


def _either(turn: Mapping[str, Any], names: tuple[str, str], where: str) -> Any:
    """The value of one of two keys; a ValueError where both are there and differ."""
    found = {name: turn[name] for name in names if turn.get(name) is not None}
    values = list(found.values())
    if len(values) == 2 and values[0] != values[1]:
        raise ValueError(f"{where}{' and '.join(found)} differ: keep one of them")
    return values[0] if values else None


def _parts(content: list[Any], where: str) -> str:
    """The text of a list of parts; a ValueError names a part that isn't text."""
    texts = []
    for part in content:
        if isinstance(part, dict):
            kind = part.get("type", "text")
            if kind not in TEXT_PARTS:
                raise ValueError(f"{where}a part of its content is {kind!r:.40}: only text is trained here")
            part = part.get("text")
        if not isinstance(part, str):
            raise ValueError(f"{where}a part of its content has no text")
        texts.append(part)
    return "".join(texts)


def _check_order(turn: Turn, expected: str, key: str) -> None:
    if turn.role != expected:
        raise ValueError(f"turn {turn.number} of {key} is by {turn.role}, where the {expected}'s is expected")
    if expected == "user" and not turn.text.strip():
        raise ValueError(f"turn {turn.number} of {key}, the user's, is empty")


def _due(key: str) -> str:
    who, what = CONVERSATIONS[key]
    return f"{key} must be a list of objects with {who} and a text in {what}"
