"""The page of a frontier: what the next halving costs, the picture of each quality, the bills by item, and what is left out."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table as Terminal
from rich.text import Text

from alpaca_jax import report
from alpaca_jax.report import Block, Card, Cards, Prose, Section
from alpaca_jax.scores.frontier.bill import ITEMS
from alpaca_jax.scores.frontier.drawing import Frontier, Picture, Point
from alpaca_jax.scores.frontier.halving import money
from alpaca_jax.scores.frontier.quality import Quality

PLACES = {"front": "on the front", "tied": "can't be told from it", "behind": "behind it"}
READING = (
    "A run is on the front if every run that costs as much or less is worse. One behind it can't be told from it if the 95% interval of "
    "its difference from the best front run within its dollars holds 0, paired over the held-out examples where both runs have theirs."
)
CHARGED = (
    "Teacher: what its answers cost, in the proportion in which the run used its records. Teacher's machine and training: hours from the "
    "first line to the last, waiting included, at the price of the machine. Scoring isn't charged, except for a judge. * is computed from "
    "token counts and list prices, and nobody was charged it."
)


def build(name: str, frontier: Frontier, plots: Sequence[report.Plot]) -> str:
    """Returns the page as HTML; `plots` are those of its pictures."""
    sections = [Section("", [Cards(_cards(frontier))])]
    sections += [_picture(picture, drawn) for picture, drawn in zip(frontier.pictures, plots, strict=True)]
    sections += [_bills(frontier), _basis(frontier)]
    if frontier.left_out:
        rows = [[one.name, one.why] for one in frontier.left_out]
        sections.append(Section("What is left out", [report.Table(["run", "why"], rows)]))
    subtitle = frontier.pictures[0].halving.sentence if frontier.pictures else "No run has both a price and a figure to compare."
    return report.render(f"{name}: dollars against quality", subtitle, [each for each in sections if each.blocks])


def plot(picture: Picture) -> report.Plot:
    """Returns the picture: one marker a run, its interval, and the front as a line of steps."""
    points = [
        report.Point(
            x=point.bill.dollars,
            y=point.qualities[picture.kind].value,
            interval=point.qualities[picture.kind].interval,
            group=f"taught by {point.teacher}",
            kind=point.run.student,
            text=f"{point.run.records:,}",
            state=PLACES[placed.place],
        )
        for point, placed in zip(picture.points, picture.placed, strict=True)
    ]
    y_label = picture.kind.label + (f" ({picture.kind.unit})" if picture.kind.unit else "")
    scatter = report.Scatter(points, "dollars a run", y_label, picture.along, "the front", list(PLACES.values()))
    lower = "lower is better" if picture.kind.lower else "higher is better"
    return report.scatter(scatter, f"The number of records stands beside each run; bars are 95% intervals; {lower}.")


def terminal(picture: Picture) -> Terminal:
    """Returns the runs of a picture by their dollars, as a table for a terminal."""
    table = Terminal(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "student", "teacher"):
        table.add_column(name, overflow="fold")
    for name in ("records", "dollars", picture.kind.label):
        table.add_column(name, justify="right")
    table.add_column("")
    for point, placed in _by_dollars(picture):
        cells = [point.run.name, point.run.student, point.teacher, f"{point.run.records:,}", money(point.bill.dollars)]
        place = PLACES[placed.place]
        table.add_row(*map(Text, [*cells, _figure(point.qualities[picture.kind]), place]), style="bold" if placed.place == "front" else "")
    return table


def _by_dollars(picture: Picture) -> list[tuple[Point, Any]]:
    return sorted(zip(picture.points, picture.placed, strict=True), key=lambda pair: pair[0].bill.dollars)


def _cards(frontier: Frontier) -> list[Card]:
    if not frontier.pictures:
        return [Card("Runs", "0", "with a price and a figure")]
    first = frontier.pictures[0]
    along = [first.points[index] for index in first.along]
    best, cheapest = along[-1], along[0]
    cost = first.halving
    interval = f"95% interval {money(cost.low)} to {money(cost.high)}" if cost.low is not None and cost.high is not None else ""
    value = f"{money(cost.dollars)} more" if cost.dollars is not None else "can't be said"
    return [
        Card("The next halving", value, interval or "why stands above"),
        Card("Best", f"{best.qualities[first.kind].value:.3f}", f"{best.label}, {money(best.bill.dollars)}"),
        Card("Cheapest", money(cheapest.bill.dollars), f"{cheapest.label}, {cheapest.qualities[first.kind].value:.3f}"),
        Card("Runs", str(len(first.points)), f"{len(along)} on the front, {len(first.names('tied'))} can't be told from it"),
        Card("All together", money(sum(point.bill.dollars for point in frontier.points)), "dollars of these runs"),
    ]


def _picture(picture: Picture, drawn: report.Plot) -> Section:
    rows = []
    for point, placed in _by_dollars(picture):
        gap = "" if placed.gap is None else f"{placed.gap:.3f}" + (f" \u00b1 {placed.stderr:.3f}" if placed.stderr is not None else "")
        cells = [
            point.run.name,
            point.run.student,
            point.teacher,
            PLACES[placed.place],
            f"{point.run.records:,}",
            money(point.bill.dollars),
        ]
        rows.append([*cells, _figure(point.qualities[picture.kind]), gap])
    head = ["run", "student", "teacher", "place", "records", "dollars", picture.kind.label, "worse by"]
    caption = "\u00b1 is a standard error. Worse by: than the best front run within the same dollars."
    table = report.Table(head, rows, numbers=(4, 5, 6, 7), caption=caption)
    return Section(f"Dollars against {picture.kind.label}", [drawn, Prose(picture.halving.sentence), table], READING)


def _bills(frontier: Frontier) -> Section:
    rows = []
    for point in sorted(frontier.points, key=lambda point: point.bill.dollars):
        items = [(money(point.bill.named(name)), any(item.computed for item in point.bill.items if item.name == name)) for name in ITEMS]
        figures = [text + ("*" if computed else "") for text, computed in items]
        rows.append([point.run.name, point.label, *figures, money(point.bill.dollars)])
    table = report.Table(["run", "what", *ITEMS, "together"], rows, numbers=range(2, 3 + len(ITEMS)))
    return Section("The bill, by item", [table] if rows else [], CHARGED)


def _basis(frontier: Frontier) -> Section:
    rows = [
        [point.run.name, item.name, money(item.dollars), item.basis]
        for point in frontier.points
        for item in point.bill.items
        if item.dollars
    ]
    blocks: list[Block] = [report.Table(["run", "item", "dollars", "from"], rows, numbers=(2,))] if rows else []
    return Section("Where each figure comes from", blocks)


def _figure(quality: Quality) -> str:
    return f"{quality.value:.3f}" + (f" \u00b1 {quality.stderr:.3f}" if quality.stderr is not None else "")
