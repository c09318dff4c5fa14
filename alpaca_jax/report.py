"""A report in one HTML file that opens without a network: sections of cards, tables, bars, plots, code and samples.

Nothing here knows what a run is: the caller assembles the blocks and calls `render`.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

# Matplotlib draws in these colours, which become CSS variables in the page, so that a plot follows the reader's dark or light scheme.
COLOURS = {"#000101": "ink", "#000102": "muted", "#000103": "line", "#000104": "accent", "#000105": "before", "#000106": "third"}
_HEX = {name: colour for colour, name in COLOURS.items()}
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
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{x_label} {y_label} {caption}", "font.size": 11}):
        figure = Figure(figsize=(6.6, 3.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
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
        axes.grid(axis="y", color=_HEX["line"], linewidth=0.8)
        axes.tick_params(colors=_HEX["muted"], length=0)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_HEX["line"])
        if any(one.style != "faint" for one in series):
            axes.legend(frameon=False, labelcolor=_HEX["ink"], loc="best", fontsize=10.5)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(_inline(text.getvalue(), f"{y_label} by {x_label}"), caption)


def smooth(values: Sequence[float | None], window: int) -> list[float | None]:
    """Returns at each position the mean of the last `window` values, ignoring gaps."""
    means: list[float | None] = []
    for end in range(1, len(values) + 1):
        near = [value for value in values[max(0, end - window) : end] if value is not None]
        means.append(sum(near) / len(near) if near else None)
    return means


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
