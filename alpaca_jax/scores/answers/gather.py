"""The answers of others that a model is compared with: files and endpoints, by name."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from alpaca_jax import storage
from alpaca_jax.errors import Lost, UserError
from alpaca_jax.scores.answers import endpoint, file
from alpaca_jax.scores.answers.answer import AnswerSet
from alpaca_jax.scores.answers.config import AnswersConfig
from alpaca_jax.scores.prompts import PromptSet
from alpaca_jax.terminal import Console


def path(folder: Path, name: str) -> Path:
    """Where the answers of `name` lie."""
    return folder / f"{name}.jsonl"


def names(config: AnswersConfig, own: Sequence[str] = ()) -> list[str]:
    """The names of all sets, own ones first; a UserError where two can't be told apart, or one can't be the name of a file."""
    found = list(own)
    for name in config.others:
        if not re.fullmatch(r"[\w][\w.+ -]{0,99}", name):
            raise UserError(f"answers.others.{name}: the name becomes that of a file; give letters, digits and . - _ +")
        same = next((other for other in found if other.casefold() == name.casefold()), None)
        if same is not None:
            what = "is a name that has its meaning here" if same in own else f"and {same} are the same name"
            raise UserError(f"answers.others.{name} {what}: two sets of answers can't be told apart; give it another name")
        found.append(name)
    return found


@dataclasses.dataclass(frozen=True)
class Others:
    """The sets that could be had, and of the others why not."""

    sets: tuple[AnswerSet, ...]
    failed: Mapping[str, str]


def one(name: str, config: AnswersConfig, prompts: PromptSet, folder: Path, console: Console) -> AnswerSet:
    """The answers of `config.others[name]` to the first `config.limit` prompts, also written into `folder` as NAME.jsonl.

    A UserError, or Lost, where the file or the endpoint can't be used.
    """
    place, asked = config.others[name], prompts.first(config.limit)
    if not isinstance(place, str):
        found = endpoint.answer(name, place, asked, config, folder / name, console)
    elif storage.at(place).is_dir():
        remedy = f"give the file of answers in it, or {{source: {place}}} where it is a model"
        raise UserError(f"answers.others.{name}: {place} is a folder; {remedy}")
    else:
        found = file.read(place, prompts, name, f"answers.others.{name}").within(asked)
    tell(found, console)
    file.write(path(folder, name), found)
    return found


def others(config: AnswersConfig, prompts: PromptSet, folder: Path, console: Console) -> Others:
    """The sets of all of `config.others`, as `one` makes them; one that can't be had is named and left out, and the others go on."""
    made, failed = list[AnswerSet](), dict[str, str]()
    for name in config.others:
        try:
            made.append(one(name, config, prompts, folder, console))
        except (UserError, Lost) as problem:
            failed[name] = str(problem)
            path(folder, name).unlink(missing_ok=True)  # of an earlier run: nobody is to take them for these
            console.print(f"{name} is left out: {problem}", highlight=False, markup=False, soft_wrap=True, style="red")
    return Others(tuple(made), failed)


def tell(found: AnswerSet, console: Console) -> None:
    """Says what is odd about a set."""
    for note in found.notes:
        console.print(f"{found.name}: {note}", highlight=False, markup=False, soft_wrap=True, style="yellow")
