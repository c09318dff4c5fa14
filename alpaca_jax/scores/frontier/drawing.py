"""The whole of a frontier: its runs with bills and qualities, placed, as values for a page, a table and frontier.json."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from alpaca_jax.scores.frontier import bill, front, quality
from alpaca_jax.scores.frontier.bill import Bill, PriceMissing
from alpaca_jax.scores.frontier.config import FrontierConfig
from alpaca_jax.scores.frontier.found import LeftOut, Run
from alpaca_jax.scores.frontier.front import Placed
from alpaca_jax.scores.frontier.halving import Halving, halving
from alpaca_jax.scores.frontier.quality import Kind, Quality


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """A run with its bill and its qualities."""

    run: Run
    teacher: str
    bill: Bill
    qualities: dict[Kind, Quality]

    @property
    def label(self) -> str:
        """What it is, in a few words."""
        return f"{self.run.student} on {self.run.records:,} of {self.teacher}"


@dataclasses.dataclass(frozen=True)
class Picture:
    """The runs that have one quality, measured on the same set, and where each stands."""

    kind: Kind
    points: Sequence[Point]
    placed: Sequence[Placed]
    halving: Halving

    @property
    def along(self) -> list[int]:
        """The runs on the front, from the cheapest to the best."""
        return front.along([point.bill.dollars for point in self.points], self.placed)

    def names(self, place: front.Place) -> list[str]:
        """Returns the names of the runs that stand there, by their dollars."""
        order = sorted(range(len(self.points)), key=lambda index: self.points[index].bill.dollars)
        return [self.points[index].run.name for index in order if self.placed[index].place == place]


@dataclasses.dataclass(frozen=True)
class Frontier:
    """All pictures of a sweep, the runs on none of them, and the prices that are missing."""

    points: Sequence[Point]
    pictures: Sequence[Picture]
    left_out: Sequence[LeftOut]
    missing: Sequence[str]  # each once


def draw(runs: Sequence[Run], left_out: Sequence[LeftOut], config: FrontierConfig) -> Frontier:
    """Returns the frontier of these runs; those without a price or without a comparable figure are left out by name."""
    points: list[Point] = []
    left, missing = list(left_out), dict[str, None]()
    for run in runs:
        try:
            point = Point(run, bill.teacher(run, config), bill.of(run, config), quality.of(run))
        except PriceMissing as error:
            missing[str(error)] = None
            left.append(LeftOut(run.name, f"has no price: {error}"))
            continue
        if point.qualities:
            points.append(point)
        else:
            left.append(
                LeftOut(run.name, "has no figure in scores.json that runs can be compared by: score it with data.heldout or suites")
            )
    kinds = dict.fromkeys(kind for point in points for kind in point.qualities)
    pictures = []
    for kind in kinds:
        alike, others = _alike(kind, points)
        left += others
        pictures.append(_picture(kind, alike))
    return Frontier(points, pictures, left, list(missing))


def _alike(kind: Kind, points: Sequence[Point]) -> tuple[list[Point], list[LeftOut]]:
    """The points measured on the set that most were measured on, and the others as left out."""
    sets = Counter(point.qualities[kind].on for point in points if kind in point.qualities)
    most = sets.most_common(1)[0][0]
    alike, others = [], []
    for point in points:
        if kind in point.qualities and point.qualities[kind].on == most:
            alike.append(point)
        else:
            why = "was measured on other examples than most" if kind in point.qualities else "has none"
            others.append(LeftOut(point.run.name, f"isn't on the picture of the {kind.label}: it {why}"))
    return alike, others


def _picture(kind: Kind, points: Sequence[Point]) -> Picture:
    dollars, qualities = [point.bill.dollars for point in points], [point.qualities[kind] for point in points]
    placed = front.place(dollars, qualities, kind.lower)
    along = front.along(dollars, placed)
    return Picture(kind, points, placed, halving(kind, [dollars[run] for run in along], [qualities[run] for run in along]))


def as_json(frontier: Frontier) -> dict[str, Any]:
    """Returns the content of frontier.json."""
    return {
        "runs": [_run(frontier, point) for point in frontier.points],
        "qualities": {picture.kind.name: _quality(picture) for picture in frontier.pictures},
        "left_out": [dataclasses.asdict(one) for one in frontier.left_out],
        "missing_prices": list(frontier.missing),
    }


def _quality(picture: Picture) -> dict[str, Any]:
    return {
        "label": picture.kind.label,
        "unit": picture.kind.unit,
        "better": "lower" if picture.kind.lower else "higher",
        "front": [picture.points[index].run.name for index in picture.along],
        "tied": picture.names("tied"),
        "behind": picture.names("behind"),
        "halving": dataclasses.asdict(picture.halving),
    }


def _run(frontier: Frontier, point: Point) -> dict[str, Any]:
    qualities = {}
    for picture in frontier.pictures:
        if point not in picture.points:
            continue
        index = picture.points.index(point)
        placed, measured = picture.placed[index], point.qualities[picture.kind]
        qualities[picture.kind.name] = {
            "value": measured.value,
            "stderr": measured.stderr,
            "interval": measured.interval,
            "place": placed.place,
            "against": None if placed.against is None else picture.points[placed.against].run.name,
            "gap": placed.gap,
            "gap_stderr": placed.stderr,
        }
    return {
        "name": point.run.name,
        "swept": dict(point.run.swept),
        "teacher": point.teacher,
        "records": point.run.records,
        "student": point.run.student,
        "dollars": point.bill.dollars,
        "items": [dataclasses.asdict(item) for item in point.bill.items],
        "qualities": qualities,
    }
