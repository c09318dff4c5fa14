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
from alpaca_jax.scores.answers.reference import REFERENCE
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.prompts import PromptSet, listed
from alpaca_jax.teacher.growing import growing
from alpaca_jax.terminal import Console

NAME = "answers"
OWN = {"before": "baseline", "after": "model"}  # the names of the sets that models in memory give
RESERVED = (*OWN.values(), REFERENCE)
SHOWN, LONGEST = 6, 800  # prompts on the page, and characters of an answer there


def wanted(config: Config, settings: Settings) -> bool:
    """Whether there is a prompt set; a UserError where it can't be used, before anything else takes time."""
    if config.answers.prompts is None:
        return False
    prompt_set(config)
    return True


def needs_model(config: Config) -> bool:
    """Where there is one; otherwise files and endpoints answer alone."""
    return config.model.settled().source is not None or runs.at(config.dir) is not None


def prompt_set(config: Config) -> PromptSet:
    """The whole set; a UserError where its file, or the names of those who answer, can't be used."""
    gather.names(config.answers, RESERVED)
    return prompts.read(str(config.answers.prompts))


def with_model(context: Context, loaded: Loaded) -> AnswerSet:
    """The answers of one model."""
    name, config = OWN[context.label], context.config.answers
    asked = prompt_set(context.config).first(config.limit)
    with growing(_folder(context)) as folder:
        made = own.answer(loaded, name, asked, config, gather.path(folder, name), context.console)
    gather.tell(made, context.console)
    return made


def conclude(context: Context, before: AnswerSet | None, after: AnswerSet | None) -> dict[str, Any]:
    """The prompts and what is counted of each set, with the first answers of each."""
    whole, config = prompt_set(context.config), context.config.answers
    with growing(_folder(context)) as folder:
        others = gather.others(config, whole, folder, context.console)
    asked, sets = whole.first(config.limit), [each for each in (before, after) if each is not None] + [*others.sets]
    return {
        "prompts": {
            **{name: getattr(asked, name) for name in ("name", "place", "fingerprint")},
            "number": len(asked),
            "notes": list(asked.notes),
        },
        "sampling": config.sampling() | {"seeds": config.seeds},
        "sets": [each.figures() for each in sets],
        "failed": dict(others.failed),
        "equal": [[one.name, other.name] for n, one in enumerate(sets) for other in sets[n + 1 :] if one.fingerprint == other.fingerprint],
        "samples": [
            {"id": prompt.id, "prompt": prompt.turns[0], "answers": {each.name: _first(each, prompt.id) for each in sets}}
            for prompt in asked.prompts[:SHOWN]
        ],
    }


def show(value: dict[str, Any], scores: dict[str, Any], console: Console) -> None:
    """A row a set."""
    title = f"Answers to the {value['prompts']['number']} prompts of {value['prompts']['name']}"
    head, rows = _table(value, without=("source",))
    table = Table(*head, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in _remarks(value):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def sections(value: dict[str, Any], scores: dict[str, Any]) -> Sequence[Section]:
    """The table, what is odd about it, and the first answers side by side."""
    names = [each["name"] for each in value["sets"]]
    samples = [report.Sample(each["prompt"], [_shown(each["answers"].get(name)) for name in names]) for each in value["samples"]]
    head, rows = _table(value)
    blocks: list[report.Block] = [report.Table(head, rows, range(2, len(head)))]
    blocks += [report.Prose(line) for line in _remarks(value)]
    blocks += [report.Samples(names, samples)] if names else []
    asked = value["prompts"]
    return [Section("Answers", blocks, f"To the {asked['number']} prompts of {asked['name']} ({asked['fingerprint']}).")]


HEAD = ("name", "source", "answered", "missing", "seeds", "empty", "cut", "chars", "tokens", "dollars")


def _table(value: dict[str, Any], without: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """The head and a row a set, without columns in which nothing stands."""
    rows = [dict(zip(HEAD, _row(each), strict=True)) for each in value["sets"]]
    head = [name for name in HEAD if name not in without and any(row[name] for row in rows)]
    return head, [[row[name] for name in head] for row in rows]


def _row(each: dict[str, Any]) -> list[str]:
    counts = [str(number) for number in (each["answered"], len(each["missing"]), *(each[name] for name in ("seeds", "empty", "cut")))]
    means = ["" if each[name] is None else f"{each[name]:.0f}" for name in ("mean_chars", "mean_tokens")]
    return [each["name"], each["source"], *counts, *means, f"{each['bill']['dollars']:.4f}" if each["bill"] else ""]


def _remarks(value: dict[str, Any]) -> list[str]:
    notes = [f"{value['prompts']['name']}: {note}" for note in value["prompts"]["notes"]]
    for each in value["sets"]:
        missing = [f"prompts without an answer: {len(each['missing'])} ({listed(each['missing'])})"] if each["missing"] else []
        long = [f"prompts too long for it, asked without their beginning: {each['shortened']}"] if each["shortened"] else []
        notes += [f"{each['name']}: {note}" for note in (*missing, *long, *each["notes"])]
    notes += [f"{name} is left out: {problem}" for name, problem in value["failed"].items()]
    return notes + [f"{one} and {other} say the same to every prompt" for one, other in value["equal"]]


def _first(answers: AnswerSet, id: str) -> str | None:
    found = answers.answers.get(id)
    if not found:
        return None
    text = found[0].text
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _shown(text: str | None) -> str:
    return "(missing)" if text is None else text or "(no text)"


def _folder(context: Context) -> Path:
    return context.folder.path("evaluate", NAME, "x").parent
