"""`action=frontier`: the runs below a folder, on one page: dollars against quality."""

from typing import Any

from alpaca_jax import lock, rundir, storage
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.report import standalone
from alpaca_jax.scores.frontier import drawing, found, page
from alpaca_jax.terminal import Console

JSON, SVG, PAGE = "frontier.json", "frontier.svg", "frontier.html"


def run(config: Config) -> dict[str, Any]:
    """Returns the content of dir/frontier.json; writes it, a picture and a page.

    Runs that aren't finished, scored or comparable are named and left out. A UserError where nothing is left; where a price is missing,
    too, but after what can be drawn of the others is written.
    """
    folder = storage.at(config.dir)
    if storage.is_remote(folder):
        raise UserError(f"dir={config.dir}: the runs of a frontier are read from a local folder; copy their summaries there")
    runs, left_out = found.find(folder)
    frontier = drawing.draw(runs, left_out, config.frontier)
    for one in frontier.left_out:
        Console(stderr=True).print(f"run {one.name} {one.why}", highlight=False, soft_wrap=True, markup=False)
    if frontier.pictures:
        with lock.held(config.dir, "", "evaluate action=frontier"):
            _write(config, frontier)
    if frontier.missing:
        rest = f"; the page holds the other {len(frontier.points)} runs" if frontier.pictures else ""
        raise UserError("; ".join(frontier.missing) + rest)
    if not frontier.pictures:
        raise UserError(f"dir={config.dir}: none of its {len(frontier.left_out)} runs can be put on a frontier; why stands above")
    return drawing.as_json(frontier)


def _write(config: Config, frontier: drawing.Frontier) -> None:
    """Writes the files and shows the tables."""
    folder, console = rundir.RunDir(config.dir), Console()
    rundir.write_json(folder.path(JSON), drawing.as_json(frontier))
    plots = [page.plot(picture) for picture in frontier.pictures]
    for number, (picture, drawn) in enumerate(zip(frontier.pictures, plots, strict=True)):
        name = SVG if number == 0 else f"frontier-{picture.kind.name.replace('.', '-')}.svg"
        rundir.write_atomic(folder.path(name), standalone(drawn))
        console.print(page.terminal(picture))
        console.print(picture.halving.sentence, highlight=False, soft_wrap=True, markup=False)
    rundir.write_atomic(folder.path(PAGE), page.build(folder.root.resolve().name, frontier, plots))
    Console(stderr=True).print(f"the page: {folder.path(PAGE)}", highlight=False, soft_wrap=True, markup=False)
