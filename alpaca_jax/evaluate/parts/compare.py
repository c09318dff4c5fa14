"""The answers of the part `answers`, compared pairwise by a judge."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import storage
from alpaca_jax.errors import Lost, UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.parts import answers
from alpaca_jax.evaluate.settings import Settings
from alpaca_jax.records import MANIFEST, Manifest
from alpaca_jax.report import Section
from alpaca_jax.rundir import write_atomic, write_json
from alpaca_jax.scores.answers import AnswerSet, file, gather
from alpaca_jax.scores.answers.reference import REFERENCE, reference
from alpaca_jax.scores.judge import difficulties, page
from alpaca_jax.scores.judge.asking import Judge, folder_name
from alpaca_jax.scores.judge.compare import compare
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.prompts import PromptSet
from alpaca_jax.teacher.bill import prices
from alpaca_jax.teacher.client import key
from alpaca_jax.teacher.growing import growing
from alpaca_jax.terminal import Console

NAME = "compare"
PREFERENCES, PER_ITEM = "preferences.jsonl", "per_item.json"


def wanted(config: Config, settings: Settings) -> bool:
    """Whether there is a judge; a UserError where it can't be asked, before anything else takes time."""
    if config.compare is None:
        return False
    if config.answers.prompts is None:
        raise UserError("compare: give answers.prompts=FILE, the prompts whose answers are compared")
    known = [*answers.OWN.values(), *config.answers.others]
    for setting, names in (("models", known), ("against", [*known, REFERENCE])):
        for name in getattr(config.compare, setting):
            if name not in names:
                raise UserError(f"compare.{setting}: there are no answers named {name!r}; give one of {', '.join(names)}")
    if "baseline" in (*config.compare.models, *config.compare.against) and config.baseline is None:
        raise UserError("compare: there is no baseline; give baseline=MODEL, or compare.against=[reference] or names of answers.others")
    if config.compare.difficulties is not None:
        difficulties.read(config.compare.difficulties, answers.prompt_set(config))
    with _named():
        prices(config.compare.teacher)
        if not _folder(config, config.compare).exists():
            key(config.compare.teacher)
    return True


def needs_model(config: Config) -> bool:
    """Never: what models answered is in files."""
    return False


def with_model(context: Context, loaded: Loaded) -> None:
    """Nothing."""


def conclude(context: Context, before: Any, after: Any) -> dict[str, Any]:
    """All numbers of all comparisons; the judge is asked for the verdicts that aren't in its log."""
    config = context.config.compare
    assert config is not None
    whole = answers.prompt_set(context.config)
    asked = whole.first(context.config.answers.limit)
    sets = {name: _answers(context, name, whole, asked) for name in dict.fromkeys((*config.models, *config.against))}

    def say(line: str) -> None:
        context.console.print(line, highlight=False, soft_wrap=True)

    related = _related(context)
    known = None if config.difficulties is None else difficulties.read(config.difficulties, whole)
    with _named(), growing(_folder(context.config, config)) as folder:
        made = compare(
            Judge(config, folder, say),
            asked,
            [sets[name] for name in config.models],
            [sets[name] for name in config.against],
            related,
            anchor=_anchor(sets, related.get("teacher")),
            difficulties=known,
        )
    write_atomic(_path(context, PREFERENCES), "".join(json.dumps(line) + "\n" for line in made.lines()))
    write_json(_path(context, PER_ITEM), {asked.name: made.per_prompt()})
    return made.value


def show(value: dict[str, Any], scores: dict[str, Any], console: Console) -> None:
    """The table, the verdicts in words, and the bill."""
    page.show(value, console)


def sections(value: dict[str, Any], scores: dict[str, Any]) -> Sequence[Section]:
    """The same, with bars."""
    return page.sections(value)


def _answers(context: Context, name: str, whole: PromptSet, asked: PromptSet) -> AnswerSet:
    """The set of that name, which the part `answers` left; the reference answers stand beside the prompts."""
    place = gather.path(context.folder.path("evaluate", answers.NAME, "x").parent, name)
    if name == REFERENCE:
        found = reference(asked)
        file.write(place, found)
        return found
    if not place.exists():
        raise UserError(f"compare: the answers of {name} are not in {place}; run the part answers first, as without parts=[compare]")
    return file.read(place, whole, name, "compare").within(asked)


def _related(context: Context) -> dict[str, str]:
    """The names of models that a judge may be, by their role."""
    settings = context.settings
    run = settings.run
    found = {"model": run.source if run and run.source else settings.model.source if settings.model else None}
    found["baseline"] = settings.baseline.source if settings.baseline else None
    found["teacher"] = next((name for place in settings.places.values() if (name := _teacher(place))), None)
    return {role: str(name) for role, name in found.items() if name}


def _teacher(place: str) -> str | None:
    """The teacher of records, as their manifest names it."""
    path = storage.at(place)
    manifest = (path if path.is_dir() else path.parent) / MANIFEST
    try:
        return Manifest.read(manifest).teacher.get("model") if manifest.is_file() else None
    except UserError:
        return None  # of records that somebody else made


def _anchor(sets: dict[str, AnswerSet], teacher: str | None) -> str | None:
    """The set of the teacher's answers, where it is known."""
    return next((name for name, each in sets.items() if name == "teacher" or (teacher and teacher in (name, each.model))), None)


def _folder(config: Config, judge: JudgeConfig) -> Path:
    return storage.at(config.dir) / "evaluate" / NAME / folder_name(judge)


def _path(context: Context, name: str) -> Path:
    return context.folder.path("evaluate", NAME, name)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """A context whose errors name the judge's settings where they lie."""
    try:
        yield
    except (UserError, Lost) as error:
        kind = UserError if isinstance(error, UserError) else Lost
        raise kind(re.sub(r"(?<![\w.])teacher(?=[.=])", "compare.teacher", str(error))) from None
