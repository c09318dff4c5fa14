"""Suites of questions whose answers can be checked, before and after."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.settings import Settings
from alpaca_jax.report import Section
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites import page, running, together
from alpaca_jax.scores.suites.results import Result
from alpaca_jax.terminal import Console

NAME = "suites"


def wanted(config: Config, settings: Settings) -> bool:
    """Whether suites are chosen."""
    return bool(config.suites)


def needs_model(config: Config) -> bool:
    """Always."""
    return True


def with_model(context: Context, loaded: Loaded) -> dict[str, Result | str]:
    """The result of each suite, or why there is none: the others go on."""
    found: dict[str, Result | str] = {}
    for name, suite in context.config.suites.items():
        try:
            found[name] = running.run(name, suite, loaded, context.folder, context.console, f"{context.label}: ")
        except UserError as error:
            said = str(error) if str(error).startswith(f"suites.{name}") else f"suites.{name}: {error}"
            found[name] = said
            context.console.print(f"{context.label}: {said}", style="red", highlight=False, soft_wrap=True)
    return found


def conclude(context: Context, before: Mapping[str, Result | str] | None, after: Mapping[str, Result | str] | None) -> dict[str, Any]:
    """For each suite its rows, with the difference of both models on the same questions; `error` where there is none."""
    value: dict[str, Any] = {}
    for name, suite in context.config.suites.items():
        old, new = (found.get(name) if found else None for found in (before, after))
        if new is None or isinstance(new, str):
            value[name] = {"error": new or "no model was given", "rows": []}
            continue
        rows = together.rows(old if isinstance(old, Result) else None, new, suite.reported)
        value[name] = {
            "error": old if isinstance(old, str) else None,
            "rows": [dataclasses.asdict(row) for row in rows],
            "facts": {"before": old.facts if isinstance(old, Result) else None, "after": new.facts},
            "files": {"before": old.file if isinstance(old, Result) else None, "after": new.file},
        }
    return value


def show(value: dict[str, Any], scores: dict[str, Any], console: Console) -> None:
    """A table a suite, in the columns that people know, with the model before and the difference where there are two."""
    for name, suite in value.items():
        if suite["rows"]:
            columns = page.head(suite["rows"])
            table = Table(*columns, title=f"Suite {name}", title_justify="left", padding=0)
            for row in page.brief(suite["rows"]):
                table.add_row(*page.cells(row, columns))
            console.print(table)
            console.print(page.facts(suite["facts"]["after"]), highlight=False, soft_wrap=True)
        if suite["error"]:
            console.print(suite["error"], style="red", highlight=False, soft_wrap=True)


def sections(value: dict[str, Any], scores: dict[str, Any]) -> Sequence[Section]:
    """The same tables on the page."""
    return page.sections(value)
