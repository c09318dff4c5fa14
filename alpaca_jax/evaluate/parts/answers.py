"""Answers to a prompt set: of the models in memory, of files and of endpoints, each set a file of `dir/evaluate/answers`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from alpaca_jax import report
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.settings import Settings
from alpaca_jax.report import Section
from alpaca_jax.scores import prompts, runs
from alpaca_jax.scores.answers import AnswerSet, gather, own
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.prompts import PromptSet, listed
from alpaca_jax.terminal import Console

NAME = "answers"
OWN = {"before": "baseline", "after": "model"}  # the names of the sets that models in memory give
SHOWN = 6  # prompts on the page


def wanted(config: Config, settings: Settings) -> bool:
    """Whether there is a prompt set."""
    return config.answers.prompts is not None


def needs_model(config: Config) -> bool:
    """Where there is one; otherwise files and endpoints answer alone."""
    return config.model.settled().source is not None or runs.at(config.dir) is not None


def prompt_set(config: Config) -> PromptSet:
    """The whole set; a UserError where its file, or the names of those who answer, can't be used."""
    gather.names(config.answers, [*OWN.values()])
    return prompts.read(str(config.answers.prompts))


def with_model(context: Context, loaded: Loaded) -> AnswerSet:
    """The answers of one model."""
    name = OWN[context.label]
    path, config = gather.path(_folder(context), name), context.config.answers
    made = own.answer(loaded, name, prompt_set(context.config).first(config.limit), config, path, context.console)
    for note in made.notes:
        context.console.print(f"{name}: {note}", highlight=False, markup=False, soft_wrap=True, style="yellow")
    return made


def conclude(context: Context, before: AnswerSet | None, after: AnswerSet | None) -> dict[str, Any]:
    """The prompts and what is counted of each set, with the first answers of each."""
    whole, config = prompt_set(context.config), context.config.answers
    others, asked = gather.others(config, whole, _folder(context), context.console), whole.first(config.limit)
    sets = [each for each in (before, after) if each is not None] + others
    return {
        "prompts": {name: getattr(asked, name) for name in ("name", "place", "fingerprint", "notes")} | {"number": len(asked)},
        "sampling": config.sampling() | {"seeds": config.seeds},
        "sets": [each.figures() for each in sets],
        "equal": [[one.name, other.name] for n, one in enumerate(sets) for other in sets[n + 1 :] if one.fingerprint == other.fingerprint],
        "samples": [
            {"id": prompt.id, "prompt": prompt.turns[0], "answers": {each.name: _first(each, prompt.id) for each in sets}}
            for prompt in asked.prompts[:SHOWN]
        ],
    }


def show(value: dict[str, Any], scores: dict[str, Any], console: Console) -> None:
    """A row a set."""
    title = f"Answers to the {value['prompts']['number']} prompts of {value['prompts']['name']}"
    table = Table(HEAD[0], *HEAD[2:], title=title, title_justify="left")
    for row in _rows(value):
        table.add_row(row[0], *row[2:])
    console.print(table)
    for line in _remarks(value):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def sections(value: dict[str, Any], scores: dict[str, Any]) -> Sequence[Section]:
    """The table, what is odd about it, and the first answers side by side."""
    names = [each["name"] for each in value["sets"]]
    samples = [report.Sample(each["prompt"], [_shown(each["answers"].get(name)) for name in names]) for each in value["samples"]]
    blocks: list[report.Block] = [report.Table(HEAD, _rows(value), range(2, len(HEAD)))]
    blocks += [report.Prose(line) for line in _remarks(value)]
    blocks += [report.Samples(names, samples)] if names else []
    asked = value["prompts"]
    return [Section("Answers", blocks, f"To the {asked['number']} prompts of {asked['name']} ({asked['fingerprint']}).")]


HEAD = ("answers of", "source", "answered", "missing", "seeds", "empty", "cut", "characters", "tokens", "dollars")


def _rows(value: dict[str, Any]) -> list[list[str]]:
    rows = []
    for each in value["sets"]:
        counts = [str(number) for number in (each["answered"], len(each["missing"]), *(each[name] for name in ("seeds", "empty", "cut")))]
        means = ["" if each[name] is None else f"{each[name]:.0f}" for name in ("mean_chars", "mean_tokens")]
        rows.append([each["name"], each["source"], *counts, *means, f"{each['bill']['dollars']:.4f}" if each["bill"] else ""])
    return rows


def _remarks(value: dict[str, Any]) -> list[str]:
    notes = [f"{value['prompts']['name']}: {note}" for note in value["prompts"]["notes"]]
    for each in value["sets"]:
        missing = [f"{len(each['missing'])} prompts have no answer ({listed(each['missing'])})"] if each["missing"] else []
        notes += [f"{each['name']}: {note}" for note in (*missing, *each["notes"])]
    return notes + [f"{one} and {other} say the same to every prompt" for one, other in value["equal"]]


def _first(answers: AnswerSet, id: str) -> str | None:
    found = answers.answers.get(id)
    return found[0].text if found else None


def _shown(text: str | None) -> str:
    return "(missing)" if text is None else text or "(no text)"


def _folder(context: Context) -> Path:
    return context.folder.path("evaluate", NAME, "x").parent
