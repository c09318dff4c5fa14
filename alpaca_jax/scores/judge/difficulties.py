"""A file of instruction difficulties, for the length-controlled win rate: AlpacaEval's, or one of your own."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.scores import statistics
from alpaca_jax.scores.prompts import PromptSet
from alpaca_jax.scores.prompts.reading import items
from alpaca_jax.scores.statistics import Difficulties

VALUES = ("instruction_difficulty", "difficulty")
ROWS = ("index", "")  # AlpacaEval's files name an instruction by its row in the evaluation set
GAMED = ("std_delta_len", "preference")


def read(place: str | os.PathLike[str], prompts: PromptSet, key: str = "compare.difficulties") -> Difficulties:
    """Returns the difficulties of `prompts`, the whole set, by id.

    Read are AlpacaEval's `df_gamed.csv` (with the preferences of the gamed baselines) and `instruction_difficulty.csv`, which name a prompt
    by its row, and any table or JSONL with an `id` and a `difficulty`. A UserError names the line that can't be read, and a set of another
    length than the rows are of.
    """
    rows = list[dict[str, Any]]()
    for where, load in items(str(place), key):
        try:
            rows.append(_row(load()))
        except ValueError as problem:
            raise UserError(f"{key}: {place}, {where}: {problem}") from None
    if not rows:
        raise UserError(f"{key}: {place} holds no difficulty")
    if rows[0]["id"] is not None:
        return Difficulties({row["id"]: row["difficulty"] for row in rows if row["id"] is not None})
    values = {row["row"]: row["difficulty"] for row in rows}
    if sorted(values) != list(range(len(prompts))):
        raise UserError(
            f"{key}: {place} holds difficulties by the row of {len(values)} prompts, and {prompts.place} has {len(prompts)}; "
            "give the difficulties of this set, or a file with an id and a difficulty a line"
        )
    return Difficulties({prompt.id: values[number] for number, prompt in enumerate(prompts)}, _gamed(rows))


def _row(item: Any) -> dict[str, Any]:
    """The numbers of one row; a ValueError where it has none."""
    name = next((name for name in VALUES if isinstance(item, dict) and name in item), None)
    if name is None:
        raise ValueError(f"{' or '.join(VALUES)} is missing")
    found = {"id": None, "row": None, "difficulty": _number(item, name)}
    if isinstance(item.get("id"), str | int):
        return found | {"id": str(item["id"])}
    row = next((_number(item, name) for name in ROWS if name in item), None)
    if row is None or row != int(row):
        raise ValueError("id is missing, and so is index, the number of the prompt's row")
    if item.get("preference") in ("", None) and "preference" in item:
        return found | {"row": int(row)}  # a verdict that is missing
    return found | {"row": int(row)} | {name: _number(item, name) for name in GAMED if name in item}


def _number(item: Mapping[str, Any], name: str) -> float:
    try:
        value = float(item[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is {item[name]!r}, not a number")
    return value


def _gamed(rows: Sequence[Mapping[str, Any]]) -> statistics.Gamed | None:
    """The gamed baselines' part, where the file has it."""
    known = [row for row in rows if all(name in row for name in GAMED)]
    if not known:
        return None
    lengths, preferences, difficulties = (np.array([row[name] for row in known]) for name in (*GAMED, "difficulty"))
    return statistics.gamed(lengths, difficulties, preferences)
