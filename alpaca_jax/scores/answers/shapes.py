"""What an item of a file of answers holds: ours, AlpacaEval's, Self-Instruct's, FastChat's."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from alpaca_jax.scores.answers.answer import Answer
from alpaca_jax.scores.prompts import folded
from alpaca_jax.scores.prompts.shapes import identity

# Where the answer stands, and what names the model that gave it.
OUTPUTS = ("output", "response", "answer", "completion", "generation", "prediction", "text")
MODELS = ("generator", "model_id", "model", "model_name")
SETTINGS = "settings"  # the only key of the first line of our own files


@dataclasses.dataclass(frozen=True)
class Item:
    """The answers in one item: the id of their prompt, its folded text with and without the input, and the model's name."""

    id: str
    text: str
    instruction: str
    answers: tuple[Answer, ...]
    numbered: bool  # whether the item says which seed each answer has
    model: str


def item(value: Any) -> Item:
    """Returns what an item holds; a ValueError says why it holds no answer to a prompt that can be told."""
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is due, and this is {type(value).__name__}")
    choices = value.get("choices")
    if isinstance(choices, list) and "question_id" in value:
        answers, numbered = _choices(choices), True
    else:
        answers, numbered = _answers(value), isinstance(value.get("seed"), int)
    id, instruction, input = identity(value), value.get("instruction"), value.get("input")
    if instruction is None and "text" in value and any(isinstance(value.get(name), str) for name in OUTPUTS[:-1]):
        instruction = value["text"]
    if instruction is None and not id:  # beside an id it may be the prompt as a template rendered it
        instruction = value.get("prompt")
    instruction = instruction if isinstance(instruction, str) else ""
    if not id and not instruction:
        raise ValueError(f"it says neither by id nor by instruction which prompt it answers (it has: {', '.join(map(str, value))})")
    whole = f"{instruction} {input}" if isinstance(input, str) else instruction
    model = next((value[name] for name in MODELS if isinstance(value.get(name), str)), "")
    return Item(id, folded(whole), folded(instruction), answers, numbered, model)


def written(id: str, answer: Answer) -> dict[str, Any]:
    """An answer as a line of our own files."""
    line = {"id": id, "seed": answer.seed, "text": answer.text, "later": list(answer.later)}
    return line | {"finish_reason": answer.finish_reason, "tokens": answer.tokens} | ({"shortened": True} if answer.shortened else {})


def _answers(value: Mapping[str, Any]) -> tuple[Answer, ...]:
    name = next((name for name in OUTPUTS if value.get(name) is not None), None)
    if name is None:
        raise ValueError(f"it holds no answer: none of {', '.join(OUTPUTS)} (it has: {', '.join(map(str, value)) or 'nothing'})")
    given = value[name]
    if isinstance(given, str):
        # A completion begins with the space after the prompt's last colon.
        text = given.strip() if name == "response" and "instruction" in value else given
        later = _texts(value.get("later", []), "later")
        return (Answer(text, _seed(value), _reason(value), _count(value), later, value.get("shortened") is True),)
    if isinstance(given, list) and given:
        return tuple(Answer(text, seed) for seed, text in enumerate(_texts(given, name)))
    raise ValueError(f"{name} must be a text, or a list of texts, got {type(given).__name__}")


def _choices(choices: Sequence[Any]) -> tuple[Answer, ...]:
    """FastChat's: a list of choices, each with its answers to all turns."""
    made = []
    for number, choice in enumerate(choices):
        turns = choice.get("turns") if isinstance(choice, dict) else None
        if isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns):
            turns = [turn.get("content") for turn in turns]
        first, *later = _texts(turns, "turns") or ("",)
        made.append(Answer(first, number, later=tuple(later)))
    if not made:
        raise ValueError("choices is empty: it holds no answer")
    return tuple(made)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} must be a list of texts")
    return tuple(value)


def _seed(value: Mapping[str, Any]) -> int:
    seed = value.get("seed")
    return seed if type(seed) is int else 0


def _reason(value: Mapping[str, Any]) -> str | None:
    reason = value.get("finish_reason")
    return reason if isinstance(reason, str) else None


def _count(value: Mapping[str, Any]) -> int | None:
    tokens = value.get("tokens")
    return tokens if type(tokens) is int and tokens >= 0 else None
