"""The answers of others that a model is compared with: files and endpoints, by name."""

import re
from collections.abc import Sequence
from pathlib import Path

from alpaca_jax.errors import UserError
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
            what = "is the model's own name here" if same in own else f"and {same} are the same name"
            raise UserError(f"answers.others.{name} {what}: two sets of answers can't be told apart; give it another name")
        found.append(name)
    return found


def others(config: AnswersConfig, prompts: PromptSet, folder: Path, console: Console) -> list[AnswerSet]:
    """The answers of `config.others` to the first `config.limit` prompts, each set also written into `folder` as NAME.jsonl."""
    made, asked = list[AnswerSet](), prompts.first(config.limit)
    for name, place in config.others.items():
        if isinstance(place, str):
            found = file.read(place, prompts, name, f"answers.others.{name}").within(asked)
        else:
            found = endpoint.answer(name, place, asked, config, folder / name, console)
        for note in found.notes:
            console.print(f"{name}: {note}", highlight=False, markup=False, soft_wrap=True, style="yellow")
        file.write(path(folder, name), found)
        made.append(found)
    return made
