"""A report in one HTML file that opens without a network: sections of cards, tables, bars, plots, code and samples.

Nothing here knows what a run is: the caller assembles the blocks and calls `render`.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

# Matplotlib draws in these colours, which become CSS variables in the page, so that a plot follows the reader's dark or light scheme.
COLOURS = {"#000101": "ink", "#000102": "muted", "#000103": "line", "#000104": "accent", "#000105": "before", "#000106": "third"}
_HEX = {name: colour for colour, name in COLOURS.items()}
_LIGHT = {
    "ink": "#16202b",
    "muted": "#5d6b7a",
    "line": "#dfe4ea",
    "accent": "#0b7a75",
    "before": "#b9770e",
    "third": "#6750a4",
    "panel": "#ffffff",
}
_GROUPS, _MARKERS = ("accent", "before", "third", "ink"), ("o", "s", "^", "D", "v", "P")
TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclasses.dataclass(frozen=True)
class Card:
    """A headline figure: its name, the figure with its unit, and a line that explains it."""

    label: str
    value: str
    note: str = ""
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class Cards:
    """A wrapping row of headline figures."""

    cards: Sequence[Card]
    kind: str = "cards"


@dataclasses.dataclass(frozen=True)
class Prose:
    """A paragraph of plain text."""

    text: str
    kind: str = "prose"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a head; the columns in `numbers` are right-aligned."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    caption: str = ""
    kind: str = "table"


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, the figure written beside it, its colour, and the ends of its interval where it has one."""

    label: str
    value: float
    text: str
    colour: Literal["accent", "before", "muted"] = "accent"
    interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Bars:
    """Horizontal bars that start at zero; `whole` fills the width (None: the longest), and a line stands at `mark`."""

    bars: Sequence[Bar]
    caption: str = ""
    whole: float | None = None
    mark: float | None = None
    kind: str = "bars"

    def share(self, value: float) -> float:
        """The length of a value as a percentage of the width."""
        whole = self.whole if self.whole is not None else max((bar.value for bar in self.bars), default=0.0)
        return min(100.0, max(0.0, 100.0 * value / whole)) if whole else 0.0


@dataclasses.dataclass(frozen=True)
class Code:
    """Text to copy: a command or a config."""

    text: str
    label: str = ""
    kind: str = "code"


@dataclasses.dataclass(frozen=True)
class Sample:
    """One prompt and what each model answered, in the order of the block's labels."""

    prompt: str
    answers: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Answers side by side under their prompts."""

    labels: Sequence[str]
    samples: Sequence[Sample]
    kind: str = "samples"


@dataclasses.dataclass(frozen=True)
class Marked:
    """Running text in parts, each with a style: "", "dim", "special" (monospaced and coloured), or both."""

    parts: Sequence[tuple[str, str]]
    label: str = ""
    kind: str = "marked"


@dataclasses.dataclass(frozen=True)
class Plot:
    """An SVG from `plot`, with its caption."""

    svg: str
    caption: str = ""
    kind: str = "plot"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two or more blocks side by side if the window is wide enough."""

    blocks: Sequence["Block"]
    kind: str = "pair"


Block = Cards | Prose | Table | Bars | Code | Samples | Marked | Plot | Pair


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, a sentence that says what follows, and the blocks."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""

    @property
    def anchor(self) -> str:
        """The section's name in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def render(title: str, subtitle: str, sections: Sequence[Section], facts: Sequence[str] = ()) -> str:
    """Returns the page as HTML; all text is escaped, and nothing in the page refers to another file or host."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, subtitle=subtitle, sections=sections, facts=facts)


@dataclasses.dataclass(frozen=True)
class Series:
    """The points of a curve; a y of None is a gap. `faint` draws a thin line without a label, `points` draws labelled markers."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str = "accent"
    style: Literal["line", "faint", "points"] = "line"


def plot(series: Sequence[Series], x_label: str, y_label: str, caption: str = "", zero: bool = False) -> Plot:
    """Returns the curves as an inline SVG with the page's colours and font; with `zero` the y-axis starts at 0."""
    import matplotlib
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{x_label} {y_label} {caption}", "font.size": 11}):
        figure, axes = _figure((6.6, 3.7))
        for one in series:
            _draw(axes, one)
        axes.set_xlabel(x_label, color=_HEX["muted"])
        axes.set_title(y_label, loc="left", color=_HEX["muted"], fontsize=11)
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.margins(x=0.02, y=0.12)
        axes.set_xlim(left=0)
        if zero:
            axes.set_ylim(bottom=0)
        _style(axes)
        if any(one.style != "faint" for one in series):
            axes.legend(frameon=False, labelcolor=_HEX["ink"], loc="best", fontsize=10.5)
        return Plot(_svg(figure, f"{y_label} by {x_label}"), caption)


@dataclasses.dataclass(frozen=True)
class Point:
    """A marker at (x, y) with its 95% interval. `group` has a colour, `kind` a shape, and `state`, one of the scatter's, a filling."""

    x: float
    y: float
    interval: tuple[float, float] | None = None
    group: str = ""
    kind: str = ""
    text: str = ""
    state: str = ""


@dataclasses.dataclass(frozen=True)
class Scatter:
    """Points over an axis of dollars or the like, with a line of steps through some of them, from the left to the right."""

    points: Sequence[Point]
    x_label: str
    y_label: str
    steps: Sequence[int] = ()  # the points on the line, by number
    steps_label: str = ""
    states: Sequence[str] = ()  # what a full, a half-filled and an empty marker mean
    log: bool = True  # the x-axis, where all x are above 0


def scatter(scatter: Scatter, caption: str = "") -> Plot:
    """Returns the points with their intervals as an inline SVG with the page's colours and font."""
    import matplotlib
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{scatter.x_label} {scatter.y_label}", "font.size": 11}):
        figure, axes = _figure((9.2, 5.2))
        _draw_scatter(axes, scatter)
        axes.set_xlabel(scatter.x_label, color=_HEX["muted"])
        axes.set_title(scatter.y_label, loc="left", color=_HEX["muted"], fontsize=11)
        if scatter.log and all(point.x > 0 for point in scatter.points):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if _decades(scatter) < 2.5 else (1.0,)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f"${value:,.10g}"))
        axes.margins(x=0.06, y=0.1)
        _style(axes)
        figure.legend(frameon=False, labelcolor=_HEX["ink"], loc="outside lower left", ncols=3, fontsize=10.5)
        return Plot(_svg(figure, f"{scatter.y_label} by {scatter.x_label}"), caption)


def standalone(plot: Plot) -> str:
    """Returns the SVG of a plot as a file of its own, in the colours of the light page."""
    svg = plot.svg
    for variable, colour in _LIGHT.items():
        svg = svg.replace(f"var(--{variable})", colour)
    return svg.replace("var(--font)", "sans-serif").replace(">", f' style="background:{_LIGHT["panel"]}">', 1) + "\n"


def smooth(values: Sequence[float | None], window: int) -> list[float | None]:
    """Returns at each position the mean of the last `window` values, ignoring gaps."""
    means: list[float | None] = []
    for end in range(1, len(values) + 1):
        near = [value for value in values[max(0, end - window) : end] if value is not None]
        means.append(sum(near) / len(near) if near else None)
    return means


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _svg(figure: Any, name: str) -> str:
    import io

    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), name)


def _style(axes: Any) -> None:
    axes.grid(axis="y", color=_HEX["line"], linewidth=0.8)
    axes.tick_params(which="both", colors=_HEX["muted"], length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_HEX["line"])


def _decades(scatter: Scatter) -> float:
    xs = [point.x for point in scatter.points]
    return math.log10(max(xs) / min(xs))


def _draw_scatter(axes: Any, scatter: Scatter) -> None:
    groups, kinds = (list(dict.fromkeys(getattr(point, name) for point in scatter.points)) for name in ("group", "kind"))
    steps = [scatter.points[number] for number in scatter.steps]
    if steps:
        end = max(point.x for point in scatter.points)
        axes.step(
            [*(point.x for point in steps), end],
            [*(point.y for point in steps), steps[-1].y],
            where="post",
            color=_HEX["ink"],
            linewidth=1.4,
            alpha=0.55,
            label=scatter.steps_label,
            zorder=1,
        )
    for point in scatter.points:
        colour = _HEX[_GROUPS[groups.index(point.group) % len(_GROUPS)]]
        errors = None if point.interval is None else [[point.y - point.interval[0]], [point.interval[1] - point.y]]
        axes.errorbar(
            [point.x],
            [point.y],
            yerr=errors,
            fmt=_MARKERS[kinds.index(point.kind) % len(_MARKERS)],
            color=colour,
            markersize=8.5,
            markeredgewidth=1.6,
            **_filling(scatter.states.index(point.state) if point.state in scatter.states else 0, colour),
            elinewidth=1.2,
            capsize=2.5,
            zorder=2,
        )
        axes.annotate(point.text, (point.x, point.y), (8, 5), textcoords="offset points", color=colour, fontsize=9.5)
    keys = [(_HEX[_GROUPS[number % len(_GROUPS)]], "o", 0, group) for number, group in enumerate(groups)]
    keys += [(_HEX["muted"], _MARKERS[number % len(_MARKERS)], 0, kind) for number, kind in enumerate(kinds)]
    shown = [state for state in scatter.states if any(point.state == state for point in scatter.points)]
    keys += [(_HEX["muted"], "o", scatter.states.index(state), state) for state in shown]
    for colour, marker, filling, label in keys:
        kwargs = _filling(filling, colour)
        axes.plot([], [], color=colour, marker=marker, markersize=8, linestyle="none", markeredgewidth=1.6, label=label, **kwargs)


def _filling(number: int, colour: str) -> dict[str, str]:
    """The marker's settings: full, the lower half, or an outline alone."""
    return {"fillstyle": ("full", "bottom", "none")[number], "markerfacecolor": colour, "markerfacecoloralt": "none"}


def _draw(axes: Any, one: Series) -> None:
    y = [float("nan") if value is None else value for value in one.y]
    colour = _HEX[one.colour]
    if one.style == "faint":
        axes.plot(one.x, y, color=colour, linewidth=1.0, alpha=0.35)
    elif one.style == "points":
        axes.plot(one.x, y, color=colour, marker="o", markersize=7, linestyle="none", label=one.label, clip_on=False)
        for at, value in zip(one.x, y, strict=True):
            axes.annotate(f"{value:.2f}", (at, value), (6, 7), textcoords="offset points", color=colour, fontweight="bold")
    else:
        axes.plot(one.x, y, color=colour, linewidth=2.0, label=one.label, marker="o" if len(y) == 1 else None)


def _thousands(value: float, position: int | None = None) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _inline(svg: str, name: str) -> str:
    """The SVG without prologue, fixed size and ids that would repeat in a page, and with CSS variables as colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{name}"', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: ((?:bold |700 )?[\d.]+px) [^;\"]*", r"font: \1 var(--font)", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
