"""`alpaca-jax evaluate action=vote`: people vote on a page until somebody ends it; then their results join the scores."""

import dataclasses
from pathlib import Path
from typing import Any

from alpaca_jax import listening, lock, rundir, storage
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate import page
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.parts import people
from alpaca_jax.evaluate.vote import material
from alpaca_jax.evaluate.vote.app import Page
from alpaca_jax.evaluate.vote.material import Material
from alpaca_jax.evaluate.vote.server import Server
from alpaca_jax.scores.people import tables
from alpaca_jax.scores.people.booth import Booth
from alpaca_jax.terminal import Console


def run(config: Config) -> dict[str, Any]:
    """Serves the page until Ctrl-C or SIGTERM; returns what people's votes add to dir/evaluate/scores.json.

    A UserError where fewer than two models have answered, or where `dir` is an object store: each vote is appended to a file.
    """
    folder, console = storage.at(config.dir) / "evaluate", Console(stderr=True)
    if storage.is_remote(folder):
        raise UserError(f"dir={config.dir}: votes are appended to a file, which an object store can't do; give a folder on a disk")
    voted = material.read(folder, config.seed)
    if not voted.questions:
        raise UserError(f"dir={config.dir}: all {voted.equal} pairs of answers are equal, so there is nothing to vote on")
    with lock.held(config.dir, f"evaluate/{material.VOTES}", "evaluate"):
        _serve(config, voted, folder, console)
    with lock.held(config.dir, "evaluate", "evaluate"):
        return _conclude(voted, folder, console)


def _serve(config: Config, voted: Material, folder: Path, console: Console) -> None:
    host = config.vote.host
    booth = Booth(voted.questions, folder / material.VOTES, config.vote.overlap, config.seed)
    blind = Page(booth, lambda: [dataclasses.asdict(each) for each in tables.tables(people.value(voted, folder))])
    ready = Path(config.vote.ready).expanduser() if config.vote.ready is not None else None
    with listening.listen(host, config.vote.port, "vote.") as listener:
        if not listening.is_loopback(host):
            console.print(f"vote.host={host}: everyone who reaches this address can vote, there is no key", style="yellow")
        equal = f"; {voted.equal} with equal answers are left out" if voted.equal else ""
        console.print(f"{len(voted.questions)} questions, {config.vote.overlap:.0%} of them for every voter{equal}", highlight=False)
        Server(blind, host, listener, console, ready).run()


def _conclude(voted: Material, folder: Path, console: Console) -> dict[str, Any]:
    """Adds the results to the scores, and makes the page of all of them anew."""
    path = folder / material.SCORES
    scores = rundir.read_json(path)
    scores[people.NAME] = value = people.value(voted, folder)
    rundir.write_json(path, scores)
    rundir.write_atomic(folder / material.PAGE, page.build(scores))
    people.show(value, scores, Console())
    console.print(f"the page: {folder / material.PAGE}", highlight=False, soft_wrap=True)
    return value
