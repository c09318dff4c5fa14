"""How much each layer of a model does, and which block of layers can best be left out: a table, and a page."""

import dataclasses
from typing import Any

from rich.table import Table as Printed

from alpaca_jax import report, rundir
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.pruning import calibration, weighing
from alpaca_jax.formats.pruning.kept import ranges
from alpaca_jax.inspect.config import Config
from alpaca_jax.masking import visible
from alpaca_jax.model import influence
from alpaca_jax.progress import ProgressBar
from alpaca_jax.report import Section, Series, Table
from alpaca_jax.terminal import Console

LAYERS = "1 - the mean cosine between what enters a layer and what leaves it."
BLOCKS = (
    'The block of so many layers that turns the residual stream least, and by which angle; model.keep_layers="drop N, chosen" drops it.'
)


@dataclasses.dataclass(frozen=True)
class Influence:
    """`layers` [L]: the influence of each; `blocks`: (how many layers, the first of the best block, its angle in shares of pi)."""

    layers: list[float]
    blocks: list[tuple[int, int, float]]
    tokens: int


def measure(config: Config) -> Influence:
    """One forward pass of the whole model over its calibration texts."""
    if config.model.source is None:
        raise UserError("influence=true weighs the layers of a model: give model.source=NAME")
    model = pretrained.open(dataclasses.replace(config.model, keep_layers=None, widths=None))
    texts = calibration.read(config.model.calibration, model.tokenizer, model.architecture.max_positions)
    with ProgressBar("weighing layers", model.architecture.num_layers, 0, Console(stderr=True), transient=True) as bar:
        streams = [x_BTD[texts.real] for x_BTD in weighing.streams(weighing.Walk(model, texts, bar.advance))]
    blocks = []
    for count in range(1, len(streams) // 2 + 1):
        angles = influence.angular_distances(streams, count)
        blocks.append((count, int(angles.argmin()), float(angles.min())))
    return Influence(influence.block_influences(streams).tolist(), blocks, int(texts.real.sum()))


def show(config: Config, console: Console) -> dict[str, Any]:
    """Prints the tables, writes `dir/influence.html`, and returns the figures."""
    found = measure(config)
    layers = [[str(number), f"{value:.4f}"] for number, value in enumerate(found.layers)]
    blocks = [[str(count), ranges(range(first, first + count)), f"{angle:.4f}"] for count, first, angle in found.blocks]
    for columns, rows in ((["layer", "influence"], layers), (["left out", "layers", "angle / pi"], blocks)):
        table = Printed(*columns, box=None)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    path = rundir.RunDir(config.dir).path("influence.html")
    curve = Series("influence", range(len(found.layers)), found.layers)
    sections = [
        Section("Layers", [report.plot([curve], "layer", "influence", zero=True), Table(["layer", "influence"], layers, [1])], LAYERS),
        Section("Blocks", [Table(["left out", "layers", "angle / pi"], blocks, [2])], BLOCKS),
    ]
    rundir.write_atomic(path, visible(report.render("What the layers do", f"{config.model.source}, {found.tokens:,} tokens", sections)))
    console.print(f"\n{path}", soft_wrap=True, highlight=False, markup=False)
    return {"influence": dataclasses.asdict(found), "page": str(path)}
