"""The prompts in one item of a file, in any of the shapes in which evaluation sets come."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from alpaca_jax.records.conversation import CONVERSATIONS
from alpaca_jax.records.shapes import record
from alpaca_jax.scores.prompts.prompt import Prompt

# The names under which a set gives a prompt an id of its own.
IDS = ("id", "question_id", "prompt_id", "task_id", "uid")
TEXTS = ("instruction", "prompt", "question", "query", "text")


def prompts(item: Any) -> list[Prompt]:
    """Returns the prompts of an item; a ValueError says why there are none.

    Self-Instruct: instruction and instances, of which each is a prompt. MT-bench and Vicuna: question_id with turns or a text. AlpacaEval
    and Alpaca: instruction, input. Our records, conversations, and plain texts.
    """
    if isinstance(item, str):
        return [Prompt.of(_filled(item, "the text"))]
    if not isinstance(item, dict):
        raise ValueError(f"a prompt is due: a text or a JSON object, and this is {type(item).__name__}")
    if "instances" in item and "instruction" in item:
        return _instances(item)
    if "turns" in item and "instruction" not in item:
        return [_turns(item)]
    if any(name in item for name in CONVERSATIONS) and "instruction" not in item:
        return [_record(item)]
    if item.get("turns") or item.get("history"):
        return [_record(item)]
    name = next((name for name in TEXTS if isinstance(item.get(name), str)), None)
    if name is None:
        raise ValueError(f"it holds none of {', '.join(TEXTS)}, turns (it has: {', '.join(map(str, item)) or 'nothing'})")
    instruction = _filled(item[name], name)
    input, system = (_text(item, key) for key in ("input", "system"))
    return [Prompt.of(instruction, input, id=identity(item), system=system, source=_rest(item, name, "input", "system"))]


def identity(item: Mapping[str, Any]) -> str:
    """The id that an item has of its own, as text; "" if it has none."""
    found = next((item[name] for name in IDS if isinstance(item.get(name), str | int) and not isinstance(item[name], bool)), "")
    return str(found).strip()


def _instances(item: Mapping[str, Any]) -> list[Prompt]:
    """A task of Self-Instruct: one prompt an instance; where there are several, the ids are ID/0, ID/1 and so on."""
    instruction, instances = _filled(item["instruction"], "instruction"), item["instances"]
    if not isinstance(instances, list) or not instances or not all(isinstance(one, dict) for one in instances):
        raise ValueError("instances must be a list of objects with input and output")
    rest, own, made = _rest(item, "instruction", "instances"), identity(item), []
    for number, one in enumerate(instances):
        id = own if len(instances) == 1 or not own else f"{own}/{number}"
        made.append(Prompt.of(instruction, _text(one, "input"), id=id, source=rest | _rest(one, "input")))
    return made


def _turns(item: Mapping[str, Any]) -> Prompt:
    turns = item["turns"]
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):  # Arena-Hard's
        turns = [turn.get("content") for turn in turns]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError("turns must be a list of what the user says, texts that aren't empty")
    return Prompt.of(
        turns[0], id=identity(item), later=tuple(turns[1:]), system=_text(item, "system"), source=_rest(item, "turns", "system")
    )


def _record(item: Mapping[str, Any]) -> Prompt:
    made = record(item, "", Counter())
    later = tuple(user for user, _ in made.turns)
    id = identity(item)
    return Prompt.of(made.instruction, made.input, id=id, later=later, system=made.system, source={"output": made.output})


def _filled(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a text that isn't empty")
    return value


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {type(value).__name__}")
    return value or ""


def _rest(item: Mapping[str, Any], *used: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in used and name not in IDS}
