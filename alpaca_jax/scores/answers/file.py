"""A file of answers, matched to the prompts of a set."""

import dataclasses
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import storage
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import write_atomic
from alpaca_jax.scores.answers import shapes
from alpaca_jax.scores.answers.answer import Answer, AnswerSet
from alpaca_jax.scores.prompts import PromptSet, items, listed

SHOWN = 60  # characters of a prompt in an error


@dataclasses.dataclass
class _Found:
    """What a file turned out to hold."""

    answers: dict[str, list[Answer]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    unnumbered: set[str] = dataclasses.field(default_factory=set)  # prompts whose answers don't say which seed they have
    others: list[str] = dataclasses.field(default_factory=list)  # lines that answer other prompts
    damaged: list[str] = dataclasses.field(default_factory=list)  # lines that can't be read, and why
    doubled: list[str] = dataclasses.field(default_factory=list)  # prompts
    unclear: list[str] = dataclasses.field(default_factory=list)  # lines whose instruction is that of several prompts
    models: Counter[str] = dataclasses.field(default_factory=Counter)
    example: str = ""  # a prompt that the set hasn't
    asked: str = ""  # the fingerprint of the prompt set that one of our own files was made for


def read(place: str | os.PathLike[str], prompts: PromptSet, name: str | None = None, key: str = "answers.others") -> AnswerSet:
    """Returns the answers in a file to the prompts of a set, matched by id, else by the text of the instruction (white space folded).

    Read are our own JSONL, AlpacaEval's model_outputs.json, Self-Instruct's predictions and FastChat's model_answer. Answers to other
    prompts, doubled ones and damaged lines are left out and named in `notes`, prompts without an answer in `missing`. A UserError where the
    file has no answer to any of the prompts. `name` is by default the model's, where all answers name the same, else the file's.
    """
    place = str(storage.at(place))
    found, source = _Found(), place
    for number, (where, load) in enumerate(items(place, key)):
        try:
            value = load()
            if number == 0 and isinstance(value, dict) and value.keys() == {shapes.SETTINGS}:
                source = _said(value, "source") or place
                found.models.update(filter(None, [_said(value, "model")]))
                found.asked = _said(value, "prompts")
                continue
            _take(shapes.item(value), where, prompts, found)
        except ValueError as problem:
            found.damaged.append(f"{where}: {problem}")
    if not found.answers:
        raise UserError(f"{key}: {place} {_nothing(prompts, found)}")
    alike = len({len(each) for each in found.answers.values()}) == 1
    answers = {id: _in_order(id, answers, alike, found) for id, answers in found.answers.items()}
    model = next(iter(found.models)) if len(found.models) == 1 else ""
    made = AnswerSet.of(name or model or Path(place).name.split(".")[0], source, prompts, answers, model=model)
    return dataclasses.replace(made, notes=_notes(prompts, found))


def write(path: Path, answers: AnswerSet) -> None:
    """Writes a set in our own JSONL, from which `read` makes the same set; the first line says where it comes from."""
    head = {shapes.SETTINGS: {"source": answers.source, "model": answers.model, "prompts": answers.prompts_fingerprint}}
    lines = [head, *(shapes.written(id, each) for id, several in answers.answers.items() for each in several)]
    write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _take(item: shapes.Item, where: str, prompts: PromptSet, found: _Found) -> None:
    ids = _matching(item, prompts)
    if len(ids) > 1:
        found.unclear.append(where)
    elif not ids:
        found.others.append(where)
        found.example = found.example or item.instruction or f"the id {item.id}"
    else:
        found.answers[ids[0]] += item.answers
        if not item.numbered and len(item.answers) == 1:
            found.unnumbered.add(ids[0])
        if item.model:
            found.models[item.model] += 1


def _matching(item: shapes.Item, prompts: PromptSet) -> Sequence[str]:
    """The ids of the prompts that an item may answer."""
    by_text = prompts.by_text.get(item.text) or (prompts.by_instruction.get(item.instruction) if item.text == item.instruction else None)
    if item.id not in prompts.by_id:
        return by_text or () if item.instruction else ()
    if not item.instruction or item.id in (by_text or ()):
        return (item.id,)
    return ()  # an id of this set, with the text of another prompt


def _in_order(id: str, answers: list[Answer], alike: bool, found: _Found) -> list[Answer]:
    """One answer a seed. Where every prompt has as many answers (`alike`) that don't say of which seed, they are of several seeds."""
    if id in found.unnumbered and alike:
        return [dataclasses.replace(answer, seed=seed) for seed, answer in enumerate(answers)]
    first: dict[int, Answer] = {}
    for answer in answers:
        first.setdefault(answer.seed, answer)
    if len(first) < len(answers):
        found.doubled.append(id)
    return [first[seed] for seed in sorted(first)]


def _said(head: Mapping[str, Any], name: str) -> str:
    """What the first line of our own files says of where the answers come from."""
    settings = head[shapes.SETTINGS]
    found = settings.get(name) if isinstance(settings, dict) else None
    return found if isinstance(found, str) else ""


def _notes(prompts: PromptSet, found: _Found) -> tuple[str, ...]:
    counts = (
        (found.others, "answers to other prompts, left out"),
        (found.doubled, "prompts answered twice, the first answer counts"),
        (found.unclear, "answers to an instruction that several prompts have, left out (give ids or inputs)"),
        (found.damaged, "damaged answers, left out"),
    )
    another = [f"made for another version of the prompts ({found.asked}, and this is {prompts.whole}), matched by id"]
    another = another if found.asked not in ("", prompts.whole) else []
    names = [] if len(found.models) < 2 else [f"models in one file: {len(found.models)} ({listed(list(found.models))})"]
    return (*another, *names, *(f"{what}: {len(which)} ({listed(list(which))})" for which, what in counts if which))


def _nothing(prompts: PromptSet, found: _Found) -> str:
    """Why a file has no answer to any of the prompts."""
    if found.others:
        return (
            f"answers other prompts: it has none to the {len(prompts)} of {prompts.place}. Its first "
            f"is to {_cut(found.example)}, theirs is {_cut(prompts.prompts[0].instruction)}; give the file for this set, or another "
            "answers.prompts"
        )
    if found.damaged:
        return f"holds no answer that can be read: {found.damaged[0]}"
    if found.unclear:
        return "has answers to instructions that several prompts have: add the ids or the inputs"
    return "is empty; give a file with one answer a line"


def _cut(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
