"""The results of a vote as tables, which a terminal, a report and the page itself show."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

FEW = 6  # voters, who are named
AGREEMENT = (
    "Agreement is the share of equal verdicts among win, tie and loss, over all pairs of verdicts on the same two answers; kappa takes "
    "out what two raters with their habits would agree on by chance. The last column leaves out every tie. A judge is as good as a person "
    "if it agrees with people as they agree with one another, and knows more than length if it exceeds the last row. Intervals are 95%, "
    "clustered by prompt."
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
    many = len({name for pair in value["pairs"] for name in (pair["model"], pair["against"])}) > 2
    return [*shown, _ranking(value["ranking"])] if many else shown


def summary(value: Mapping[str, Any]) -> str:
    """Returns in a sentence who has voted on how much."""
    if not value["votes"]:
        return "nobody has voted yet"
    voters = value["voters"]
    who = ", ".join(f"{name} {count}" for name, count in voters.items()) if len(voters) <= FEW else f"{len(voters)} voters"
    return f"{value['votes']} votes on {value['voted']} of {value['questions']} questions ({who})"


def _preferences(value: Mapping[str, Any]) -> Table:
    judged = any(pair["judge"] for pair in value["pairs"])
    head = ("model", "against", "people", *(("judge, same prompts",) if judged else ()), "better", "tie", "worse", "prompts")
    rows = []
    for pair in value["pairs"]:
        levels, rate = pair["levels"], pair["rate"]
        better, worse = (levels[f"{side}_much"] + levels[f"{side}_slightly"] for side in ("first", "second"))
        rows.append(
            (
                pair["model"],
                pair["against"],
                figure(rate["estimate"]),
                *((figure(pair["judge"]["estimate"] if pair["judge"] else None),) if judged else ()),
                f"{better} ({levels['first_much']} much)",
                f"{levels['tie'] + levels['both_bad']} ({levels['both_bad']} bad)",
                f"{worse} ({levels['second_much']} much)",
                str(rate["prompts"]),
            )
        )
    position = value["ranking"]["position"]
    note = "Win rates in percent with 95% intervals; a tie counts a half."
    if position:
        note += f" Being shown first adds {figure(position, 2)} to the log odds."
    return Table("What people prefer", note, head, rows, tuple(range(2, len(head))))


def _agreement(value: Mapping[str, Any]) -> Table:
    rows = [
        (
            row["who"],
            str(row["all"]["items"]),
            figure(row["all"]["agreed"]),
            figure(row["all"]["kappa"], 2),
            figure(row["decided"]["agreed"]) if row["decided"] else "",
        )
        for row in value["agreement"]
        if row["all"]
    ]
    head = ("", "pairs", "agreement, %", "kappa", "without ties, %")
    return Table("Who agrees with whom", AGREEMENT, head, rows, (1, 2, 3, 4))


def _ranking(ranking: Mapping[str, Any]) -> Table:
    rows = [(one["name"], figure(one["elo"], 0), _span(one["ranks"]), str(one["votes"])) for one in ranking["models"]]
    by = " and by ".join(ranking["clusters"])
    note = f"Bradley-Terry on all votes, a tie as half a win, {ranking['anchor']} at 0; intervals are 95%, clustered by {by}."
    note = " ".join([note, *(one["sentence"] for one in ranking["apart"])])
    return Table("All models", note, ("model", "Elo", "rank", "votes"), rows, (1, 2, 3))


def _span(ranks: Sequence[int]) -> str:
    low, high = ranks
    return str(low) if low == high else f"{low} to {high}"


def figure(estimate: Mapping[str, Any] | None, digits: int = 1) -> str:
    """Returns an Estimate as `47.1 (40.2 to 54.0)`; "" for none."""
    if estimate is None or estimate["value"] is None:
        return ""
    value = f"{estimate['value']:.{digits}f}"
    return value if estimate["low"] is None else f"{value} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"
