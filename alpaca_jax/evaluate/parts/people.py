"""What people prefer, from the votes in `dir/evaluate/votes`, and how far they and the judge agree."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from alpaca_jax import report, storage
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.settings import Settings
from alpaca_jax.evaluate.vote import material
from alpaca_jax.evaluate.vote.material import Material
from alpaca_jax.report import Section
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.people import results, tables, votes
from alpaca_jax.terminal import Console

NAME = "people"


def wanted(config: Config, settings: Settings) -> bool:
    """Whether somebody has voted."""
    folder = storage.at(config.dir) / "evaluate" / material.VOTES
    return not storage.is_remote(folder) and any(folder.glob("*.jsonl"))


def needs_model(config: Config) -> bool:
    """Never: people read what was answered before."""
    return False


def with_model(context: Context, loaded: Loaded) -> None:
    """Nothing."""


def conclude(context: Context, before: None, after: None) -> dict[str, Any] | None:
    """The results of all votes on the answers that are there now; None, which is said, where these can't be read."""
    folder = context.folder.path("evaluate", "x").parent
    try:
        return value(material.read(folder, context.config.seed), folder)
    except UserError as error:  # the answers that were voted on are gone: no reason to end an evaluation
        context.console.print(f"the votes are left out: {error}", style="yellow", highlight=False, soft_wrap=True)
        return None


def value(voted: Material, folder: Path) -> dict[str, Any]:
    """The results of the votes in a folder as JSON."""
    keys = [question.key for question in voted.questions]
    cast = votes.all_votes(votes.read(folder / material.VOTES), keys)
    return results.results(cast, voted.questions, voted.judged, voted.anchor) | {"equal": voted.equal}


def show(value: dict[str, Any] | None, scores: dict[str, Any], console: Console) -> None:
    """A table each of preferences, agreement and, of more than two models, their ranking."""
    if value is None:
        return
    console.print(f"People: {tables.summary(value)}", highlight=False, soft_wrap=True)
    for each in tables.tables(value):
        table = Table(title=each.title, title_justify="left", caption=each.note, caption_justify="left")
        for number, head in enumerate(each.head):
            table.add_column(head, justify="right" if number in each.numbers else "left")
        for row in each.rows:
            table.add_row(*row)
        console.print(table)


def sections(value: dict[str, Any], scores: dict[str, Any]) -> Sequence[Section]:
    """The same tables."""
    blocks = [report.Table(each.head, each.rows, each.numbers, each.note) for each in tables.tables(value)]
    return [Section("People", blocks, f"{tables.summary(value)}, blind: no names, and an order of their own for each voter.")]
