"""Preference data in the shapes that people have: two answers of which one is better, and answers that are marked as wanted or not.

An item of either kind is an ordinary one, in the better answer, with a rejected one or a mark beside it.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from alpaca_jax.records import keys
from alpaca_jax.records.conversation import CONVERSATIONS, SPEAKERS

CHOSEN = ("chosen", "preferred_output")  # the second is OpenAI's
REJECTED = ("rejected", "rejected_response", "rejected_messages", "rejected_output", "non_preferred_output")
MARKS = ("desired", "kto_label", "kto_tag", "label")
PROMPTS = ("prompt", "question", "query")
ANSWERS = ("completion", "response", "answer")  # beside a mark
READ = frozenset((*CHOSEN, *REJECTED, *MARKS))
YES, NO = ("true", "1", "1.0"), ("false", "0", "0.0")
SPEAKER = re.compile(r"\n\n(Human|Assistant):")  # of the transcripts of Anthropic's hh-rlhf
UNASKED = "is an answer without its question: give that as instruction, prompt or messages, or give whole conversations"

Item = Mapping[str, Any]


class Preference(NamedTuple):
    """The item of the better answer; the same item with the rejected one, or its text; and the mark, where there is one."""

    chosen: dict[str, Any]
    rejected: dict[str, Any] | str | None
    desired: bool | None


def of(item: Item) -> Preference | None:
    """Returns what an item prefers, None where it says nothing about it; a ValueError says what is wrong."""
    rejected, chosen = _one(item, REJECTED), _one(item, CHOSEN)
    if chosen is not None:  # then the other may be an empty answer
        rejected = rejected or next((name for name in REJECTED if isinstance(item.get(name), str)), None)
    elif rejected is not None and not any(item.get(name) for name in ("output", *CONVERSATIONS)):
        chosen = next((name for name in CHOSEN if isinstance(item.get(name), str)), None)
    mark = _mark(item)
    if mark is not None and (rejected or chosen):
        raise ValueError(f"{mark[0]} beside {rejected or chosen}: an answer is marked, or stands in a pair; keep one of them")
    if mark is not None:
        return _marked(item, *mark)
    if rejected is None and chosen is None:
        return None
    if rejected is None:
        raise ValueError(f"{chosen} without a rejected answer: a pair has both; give rejected, or call the answer output")
    if chosen is None and isinstance(item[rejected], str):
        return Preference(_without(item, (rejected,)), item[rejected], None)
    if chosen is None:
        rest = _without(item, (rejected, *CONVERSATIONS))
        return Preference(_without(item, (rejected,)), rest | {"messages": item[rejected]}, None)
    return Preference(_answered(item, item[chosen], chosen), _answered(item, item[rejected], rejected), None)


def _one(item: Item, names: tuple[str, ...]) -> str | None:
    """Which of the names holds something in the item."""
    found = [name for name in names if not keys.is_empty(item.get(name))]
    if len(found) > 1:
        raise ValueError(f"{' and '.join(found)} are both there: keep one of them")
    return found[0] if found else None


def _mark(item: Item) -> tuple[str, bool] | None:
    """The key that says whether the answer is wanted, and what it says. A `label` is one only as a truth value, or beside a completion."""
    found = dict[str, bool]()
    for name in MARKS:
        value = item.get(name)
        if keys.is_empty(value) or (name == "label" and not isinstance(value, bool) and "completion" not in item):
            continue
        text = str(value).lower()
        if text not in YES + NO:
            raise ValueError(f"{name}={text[:40]}: an answer is wanted (true) or not (false), with nothing between")
        found[name] = text in YES
    if len(set(found.values())) > 1:
        raise ValueError(f"{' and '.join(found)} contradict each other")
    return next(iter(found.items()), None)


def _marked(item: Item, name: str, desired: bool) -> Preference:
    rest = _without(item, MARKS)
    answers = [each for each in ANSWERS if each in rest]
    if not answers or "output" in rest or any(not keys.is_empty(rest.get(each)) for each in CONVERSATIONS):
        return Preference(rest, None, desired)
    return Preference(_answered(_without(rest, answers), rest[answers[0]], answers[0]), None, desired)


def _answered(item: Item, answer: Any, name: str) -> dict[str, Any]:
    """The item as an ordinary one with this answer: an instruction with its output, or messages."""
    prompt, rest = _prompt(item)
    turns = _turns(answer, name)
    before = _transcript(prompt) if isinstance(prompt, str) else prompt
    if isinstance(turns, str):  # whole, or what follows the prompt
        whole = _transcript(turns)
        if whole is not None and (prompt is None or turns.startswith(str(prompt))):
            return rest | {"messages": whole}
        if before is not None:
            said = before[:-1] if before and _by(before[-1]) == "assistant" and not before[-1].get("content") else before
            return rest | {"messages": [*said, {"role": "assistant", "content": turns.strip() if isinstance(prompt, str) else turns}]}
        if prompt is None:
            raise ValueError(f"{name} {UNASKED}")
        return rest | {"instruction": prompt, "output": turns}
    if any(_by(turn) == "user" for turn in turns):
        if isinstance(prompt, str) and before is None:
            rest = rest | {"instruction": prompt}  # which is to be a part of the conversation
        return rest | {"messages": turns}
    if isinstance(prompt, str) and before is None:
        extra = rest.pop("input", None)
        before = [{"role": "user", "content": "\n\n".join(text for text in (prompt, extra) if text)}]
    if before is None:
        raise ValueError(f"{name} {UNASKED}")
    return rest | {"messages": [*before, *turns]}


def _prompt(item: Item) -> tuple[Any, dict[str, Any]]:
    """What was asked, as a text or as turns, None where nothing stands apart from the answers; and the rest of the item."""
    answers = [item[name] for name in (*CHOSEN, *REJECTED) if name in item]  # UltraFeedback has the chosen one as messages, too
    names = [name for name in ("instruction", *PROMPTS, *CONVERSATIONS) if not keys.is_empty(item.get(name)) and item[name] not in answers]
    rest = _without(item, (*READ, *PROMPTS, *CONVERSATIONS, "instruction"))
    inner = item.get("input")
    if isinstance(inner, Mapping) and not names:  # OpenAI's
        return inner.get("messages"), _without(rest, ("input",))
    if len(names) > 1 and len({str(item[name]) for name in names}) > 1:
        raise ValueError(f"{' and '.join(names)} are both there, and differ: keep one of them")
    prompt = item[names[0]] if names else None
    if prompt is not None and not isinstance(prompt, str) and not _are_turns(prompt):
        raise ValueError(f"{names[0]} must be a text, or a list of turns")
    return prompt, rest


def _turns(answer: Any, name: str) -> Any:
    """An answer as a text, or as a list of turns."""
    turns = [answer] if isinstance(answer, dict) else answer
    if not isinstance(turns, str) and not (turns and _are_turns(turns)):
        raise ValueError(f"{name} must be a text, or a list of turns")
    return turns


def _are_turns(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(turn, dict) for turn in value)


def _by(turn: Item) -> Any:
    speaker = turn.get("role") or turn.get("from")
    return SPEAKERS.get(str(speaker), speaker)


def _transcript(text: str) -> list[dict[str, str]] | None:
    """The turns of a transcript of Human and Assistant; None where the text is none."""
    if not text.startswith("\n\nHuman:"):
        return None
    _, *parts = SPEAKER.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _without(item: Item, names: Any) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in names}
