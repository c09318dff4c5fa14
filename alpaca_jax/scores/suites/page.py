"""The table of a suite, in the terminal and on the page: task, version, filter, shots, metric, value, standard error."""

from collections.abc import Mapping, Sequence
from typing import Any

from alpaca_jax.report import Block, Prose, Section, Table

ARROWS = {True: "↑", False: "↓", None: ""}
LABELS = ("Tasks", "Version", "Filter", "n-shot", "Metric", "")
ONE, TWO = ("Value", "Stderr"), ("Before", "After", "Difference")  # of two, each with its standard error


def head(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of the columns for one model, or for two."""
    return (*LABELS, *(TWO if any(row["before"] is not None for row in rows) else ONE))


def brief(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows for a terminal: all of a suite as a whole, and of what it consists of the metric that counts."""
    counts: dict[str, str] = {}
    return [row for row in rows if counts.setdefault(row["task"], row["metric"]) == row["metric"] or row["depth"] == 0]


def cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The texts of a row in these columns."""
    name = f"{' ' * row['depth']}- {row['alias']}" if row["depth"] else row["alias"]
    first = [
        name,
        row["version"],
        row["filter"],
        "" if row["shots"] is None else str(row["shots"]),
        row["metric"],
        ARROWS[row["higher_is_better"]],
    ]
    value, error = _figure(row["value"]), _error(row["stderr"])
    if len(columns) == len(LABELS) + len(ONE):
        return [*first, value, error]
    before = f"{_figure(row['before'])} {_error(row['before_stderr'])}"
    return [
        *first,
        before.strip(),
        f"{value} {error}".strip(),
        f"{_figure(row['difference'], '+.4f')} {_error(row['difference_stderr'])}".strip(),
    ]


def facts(known: Mapping[str, Any]) -> str:
    """How the model was asked, in a line."""
    chat = f"in chat template {known['chat_template']}" if known.get("chat_template") else "as plain text, without a chat template"
    cut = f"; {known['truncated']} questions lost the beginning of their context" if known.get("truncated") else ""
    return f"asked {chat}; BOS: {known.get('bos')}{cut}"


def sections(value: Mapping[str, Any]) -> list[Section]:
    """One section with a table a suite."""
    blocks: list[Block] = []
    for name, suite in value.items():
        if suite["rows"]:
            columns = head(suite["rows"])
            numbers = [3, *range(len(LABELS), len(columns))]
            caption = f"{name}: {facts(suite['facts']['after'])}."
            blocks.append(Table(columns, [cells(row, columns) for row in suite["rows"]], numbers, caption))
        if suite["error"]:
            blocks.append(Prose(suite["error"]))
    lead = "Questions whose answers can be checked. The standard error of a difference is over the same questions, paired."
    return [Section("Suites", blocks, lead)] if blocks else []


def _figure(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else format(value, form)


def _error(value: float | None) -> str:
    return "" if value is None else f"± {value:.4f}"
