"""The results of a vote as tables, which a terminal, a report and the page itself show."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

PREFERENCES = (
    "model",
    "against",
    "people",
    "judge, same prompts",
    "better: much + slightly",
    "tie + both bad",
    "worse: slightly + much",
    "prompts",
)
AGREEMENT = (
    "Agreement is the share of equal verdicts among win, tie and loss; kappa takes out what two raters with their habits would agree on by "
    "chance. The last column leaves out every tie. A judge is as good as a person where its agreement with people reaches theirs with one "
    "another, and knows more than length where it exceeds the last row. Intervals are 95%, over prompts."
)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a head, with a title and a note."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]  # the columns to align on the right


def tables(value: Mapping[str, Any]) -> list[Table]:
    """Returns the tables of what `results.results` gave."""
    if not value["votes"]:
        return []
    shown = [_preferences(value), _agreement(value)]
    return [*shown, _ranking(value["ranking"])] if len(value["ranking"]["models"]) > 2 else shown


def summary(value: Mapping[str, Any]) -> str:
    """Returns in a sentence who has voted on how much."""
    voters = ", ".join(f"{name} {count}" for name, count in value["voters"].items())
    return f"{value['votes']} votes on {value['voted']} of {value['questions']} questions ({voters})" if voters else "nobody has voted yet"


def _preferences(value: Mapping[str, Any]) -> Table:
    rows = []
    for pair in value["pairs"]:
        levels, rate = pair["levels"], pair["rate"]
        judge = pair["judge"]
        rows.append(
            (
                pair["model"],
                pair["against"],
                figure(rate["estimate"]),
                figure(judge["estimate"]) if judge else "",
                f"{levels['first_much']} + {levels['first_slightly']}",
                f"{levels['tie']} + {levels['both_bad']}",
                f"{levels['second_slightly']} + {levels['second_much']}",
                str(rate["prompts"]),
            )
        )
    position = value["ranking"]["position"]
    note = f"{summary(value)}. Win rates in percent with 95% intervals; a tie counts a half."
    if position:
        note += f" Being shown first adds {position['value']:+.2f} ({position['low']:+.2f} to {position['high']:+.2f}) to the log odds."
    return Table("What people prefer", note, PREFERENCES, rows, tuple(range(2, len(PREFERENCES))))


def _agreement(value: Mapping[str, Any]) -> Table:
    rows = [
        (
            row["who"],
            str(row["all"]["items"]) if row["all"] else "0",
            figure(row["all"]["agreed"]) if row["all"] else "",
            figure(row["all"]["kappa"], 2) if row["all"] else "",
            figure(row["decided"]["agreed"]) if row["decided"] else "",
        )
        for row in value["agreement"]
    ]
    head = ("", "pairs of verdicts", "agreement, %", "kappa", "without ties, %")
    return Table("Who agrees with whom", AGREEMENT, head, rows, (1, 2, 3, 4))


def _ranking(ranking: Mapping[str, Any]) -> Table:
    rows = [
        (one["name"], figure(one["elo"], 0), "-".join(map(str, sorted(set(one["ranks"])))), str(one["votes"])) for one in ranking["models"]
    ]
    note = f"Bradley-Terry on all votes, a tie as half a win, {ranking['anchor']} at 0, errors clustered by prompt and by voter."
    note = " ".join([note, *(one["sentence"] for one in ranking["apart"])])
    return Table("All models", note, ("model", "Elo", "rank", "votes"), rows, (1, 2, 3))


def figure(estimate: Mapping[str, Any] | None, digits: int = 1) -> str:
    """Returns an Estimate as `47.1 (40.2 to 54.0)`; "" for none."""
    if estimate is None or estimate["value"] is None:
        return ""
    value = f"{estimate['value']:.{digits}f}"
    return value if estimate["low"] is None else f"{value} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"
