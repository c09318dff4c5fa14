"""A record from an item of a file: our own format, Alpaca's, a text, or a conversation."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from alpaca_jax.records import keys, preference
from alpaca_jax.records.conversation import CONVERSATIONS, Conversation
from alpaca_jax.records.record import Record

OWN = frozenset(("id", "provenance", "system", "weight", "train", "trainable"))
INSTRUCTION = OWN | {"instruction", "input", "output", "turns", "shown", "history", *keys.REASONING}
WHOLE = ("weight", "train", "trainable")  # flags of a whole record
# What others call our fields.
NAMES = {
    **dict.fromkeys(("prompt", "question", "query", "problem"), "instruction"),
    **dict.fromkeys(("completion", "response", "answer", "solution", "target"), "output"),
}


def record(item: Any, where: str, noted: Counter[str]) -> Record:
    """Returns the record of an item; a ValueError says what is wrong.

    Counts in `noted`: shortened (a conversation lost an incomplete turn), conversations, changed (an earlier version read it in another
    way), and keys that nobody knows.
    """
    if isinstance(item, dict) and (preferred := preference.of(item)) is not None:
        return Record(**_preferred(preferred, noted), where=where)
    return Record(**_fields(item, noted), where=where)


def _preferred(preferred: preference.Preference, noted: Counter[str]) -> dict[str, Any]:
    """The fields of a pair, or of an answer that is marked as wanted or not."""
    fields, rejected = _fields(preferred.chosen, noted), preferred.rejected
    made = _answering_plainly(fields)
    if isinstance(rejected, dict):
        other = _answering_plainly(_fields(rejected, Counter()))
        if made.asked() != other.asked():
            raise ValueError("the chosen and the rejected answer have different prompts: all before the last answer must be the same")
        rejected = other.answer
    return fields | {"rejected": rejected, "desired": preferred.desired}


def _answering_plainly(fields: dict[str, Any]) -> Record:
    if not fields["instruction"]:
        raise ValueError("a text without an instruction has no better answer: give what was asked")
    if any(fields["reasoning"][-1:]):
        raise ValueError("the reasoning of a preferred or marked answer isn't read: write it into the answers, or take it out")
    return Record(**fields)


def _fields(item: Any, noted: Counter[str]) -> dict[str, Any]:
    if isinstance(item, list) and item and all(isinstance(turn, dict) for turn in item):
        raise ValueError('a bare list of turns; name what it holds: {"messages": [...]}')
    if not isinstance(item, dict):
        raise ValueError(f"expected a JSON object, got {type(item).__name__}")
    if item.keys() >= {"role", "content"} or item.keys() >= {"from", "value"}:
        raise ValueError('this is one turn of a conversation: a bare list of turns has to be named, as {"messages": [...]}')
    if keys.flag(item, "", WHOLE) is False:
        raise ValueError("a record with weight 0 or train false is learnt by nobody: leave it out")
    names = [name for name in CONVERSATIONS if not keys.is_empty(item.get(name))]
    if not names and item.get("instruction") is None and item.get("text") is None:
        names = [name for name in CONVERSATIONS if name in item]
    if names:
        fields = _conversation(item, names, noted)
    elif "text" in item and item.get("instruction") is None:
        fields = _document(item, noted)
    else:
        fields = _instruction(item, noted)
    identity = item.get("id")
    return fields | {"id": str(identity or ""), "provenance": _provenance(item.get("provenance"))}


def _text(item: Mapping[str, Any], name: str) -> str:
    text = item.get(name)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{name} must be a string, got {type(text).__name__}")
    return text or ""


def _document(item: dict[str, Any], noted: Counter[str]) -> dict[str, Any]:
    for name in ("input", "output", "turns", "history", "system", *keys.REASONING):
        if not keys.is_empty(item.get(name)):
            raise ValueError(f"text and {name}: a text is learnt whole and has neither; call the question instruction, or take {name} out")
    keys.check(item, "", OWN | {"text"}, noted)
    text = _text(item, "text")
    if not text.strip():
        raise ValueError("text is empty")
    return {"instruction": "", "output": text}


def _instruction(item: dict[str, Any], noted: Counter[str]) -> dict[str, Any]:
    """The fields of a record in our own format or in Alpaca's, whose `history` of earlier exchanges is LLaMA-Factory's."""
    keys.check(item, "", INSTRUCTION, noted)
    missing = [name for name in ("instruction", "output") if item.get(name) is None]
    if missing:
        renamed = [f"{name} to {ours}" for name, ours in NAMES.items() if name in item and ours in missing]
        remedy = f"; rename {' and '.join(renamed)}" if renamed else ""
        raise ValueError(f"lacks the field {' and '.join(missing)} (it has: {', '.join(map(str, item)) or 'none'}){remedy}")
    texts = {name: _text(item, name) for name in ("instruction", "input", "output")}
    if not texts["instruction"].strip():
        raise ValueError("instruction is empty")
    turns, history = _pairs(item, "turns"), _pairs(item, "history")
    reasoning, shown = _reasoning(item, 1 + len(turns)), _shown(item, 1 + len(turns))
    if history:
        # LLaMA-Factory joins instruction and input with a line break, and learns the answers of the history as well.
        user = "\n".join(text for text in (texts["instruction"], texts["input"]) if text)
        turns = (*history[1:], (user, texts["output"]), *turns)
        texts |= {"instruction": history[0][0], "input": "", "output": history[0][1]}
        shown = tuple(number + len(history) for number in shown)
        reasoning = ("",) * len(history) + reasoning if reasoning else ()
    noted["history"] += bool(history)
    noted["changed"] += bool(history or reasoning or shown)
    return texts | {"system": _text(item, "system"), "turns": turns, "shown": shown, "reasoning": reasoning}


def _pairs(item: dict[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    turns = item.get(name)
    if keys.is_empty(turns):
        return ()
    if not isinstance(turns, list) or not all(isinstance(turn, list) and [type(text) for text in turn] == [str, str] for turn in turns):
        raise ValueError(f"{name} must be a list of pairs of strings, the user's and the assistant's")
    if not all(user.strip() for user, _ in turns):
        raise ValueError(f"{name}: a user's text is empty")
    return tuple((user, assistant) for user, assistant in turns)


def _reasoning(item: dict[str, Any], answers: int) -> tuple[str, ...]:
    """What was thought before each of the answers: a text for the first, or in our own format a list with one for each."""
    thoughts = item.get("reasoning")
    if isinstance(thoughts, list) and thoughts:
        if len(thoughts) != answers or not all(isinstance(text, str) for text in thoughts):
            raise ValueError(f"reasoning must be a string, or a list of {answers} strings, one for each answer")
        return tuple(thoughts)
    first = keys.reasoning(item, "")
    if first and answers > 1:
        raise ValueError(f"reasoning must be a list of {answers} strings, one for each answer")
    return (first,) if first else ()


def _shown(item: dict[str, Any], answers: int) -> tuple[int, ...]:
    """The answers that are not learnt, in our own format: a list of their numbers."""
    shown = item.get("shown")
    if keys.is_empty(shown):
        return ()
    if not isinstance(shown, list) or not all(type(number) is int and 0 <= number < answers for number in shown):
        raise ValueError(f"shown must be a list of numbers of answers, from 0 to {answers - 1}")
    return tuple(sorted(set(shown)))


def _conversation(item: dict[str, Any], names: list[str], noted: Counter[str]) -> dict[str, Any]:
    if len(names) > 1 and item[names[0]] != item[names[1]]:
        raise ValueError(f"{' and '.join(names)} are both there, and differ: keep one of them")
    for name in ("turns", "history", "shown", *keys.REASONING):
        if not keys.is_empty(item.get(name)):
            raise ValueError(f"{name} beside {names[0]} isn't read: put it into {names[0]}, or take it out")
    read = Conversation.of(item[names[0]], names[0], noted)
    for name in ("instruction", "input", "output"):  # some exports repeat a part of the conversation there
        text = item.get(name)
        if not keys.is_empty(text) and not any(str(text).strip() in said for said in read.texts):
            raise ValueError(f"{name} is beside {names[0]}, and isn't a part of it: keep one of them")
    keys.check(item, "", OWN | {*CONVERSATIONS, "instruction", "input", "output"}, noted)
    system = _text(item, "system")
    if system and read.system and system.strip() != read.system.strip():
        raise ValueError(f"system and the system turn of {names[0]} differ: keep one of them")
    noted["conversations"] += 1
    noted["shortened"] += read.shortened
    noted["changed"] += bool(read.shown or any(read.reasoning))
    first, *others = read.exchanges
    return {
        "instruction": first[0],
        "output": first[1],
        "system": read.system or system,
        "turns": tuple(others),
        "shown": read.shown,
        "reasoning": read.reasoning,
    }


def _provenance(value: Any) -> Mapping[str, Any]:
    """Where a record comes from, as an object; whatever else a file has there is kept in one."""
    if not value or keys.is_empty(value):
        return {}
    mapping = value if isinstance(value, dict) else {"provenance": value}
    return json.loads(json.dumps(mapping, default=str, ensure_ascii=False))  # a table may hold dates and bytes
