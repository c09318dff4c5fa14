"""Which merge of an adapter a conversion writes, and what a base in four bits makes of the choice.

An adapter that was trained on a base in four bits makes up for the errors of its rounding. So by default it is merged into what those four
bits hold. Usually the base's own weights are the better model all the same, and for some models they are useless: the losses tell.
"""

import dataclasses

from rich.table import Table

from alpaca_jax.config import parse
from alpaca_jax.convert.config import Config
from alpaca_jax.data import builder
from alpaca_jax.data.config import DataConfig
from alpaca_jax.data.example import Example, Examples
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.adapter import reader
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.scores import runs
from alpaca_jax.scores.heldout import Scorer
from alpaca_jax.scores.runs import Run
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.terminal import Console

ROWS = 4  # of a held-out batch
NAMES = {"quantised": "the base in four bits, as trained", "original": "the base's own weights"}


def chosen(config: Config, model: Pretrained) -> Pretrained:
    """The model that the conversion writes: of a base in four bits, the merge that the config asks for."""
    if model.adapted is None or not model.adapted.quantised or config.merge_into == "quantised":
        return model
    return original(model)


def original(model: Pretrained) -> Pretrained:
    """The adapter of `model` over the base's own weights."""
    assert model.adapted is not None
    merged = reader.over(model.adapted.base, model.adapted.peft)
    return dataclasses.replace(merged, format=f"{model.adapted.base.format}, with a LoRA adapter", adapted=model.adapted)


def compare(config: Config, model: Pretrained, console: Console) -> None:
    """Prints the loss of both merges on records that the run held out; in words, why there is nothing to compare them on."""
    run = runs.of(config.source)
    if run is None or not run.heldout:
        console.print("the run held no records out, so the two merges are not compared", highlight=False)
        return
    try:
        scorer = _scorer(run, model, config.heldout)
    except UserError as error:
        console.print(f"the two merges are not compared: {error}", highlight=False, soft_wrap=True)
        return
    table = Table("merged into", "nats a token", "written", title=f"Loss on {scorer.examples} held-out records", title_justify="left")
    for name, each in (("quantised", model), ("original", original(model))):
        with console.status(f"held-out loss of the adapter over {NAMES[name]}"):
            score = scorer.score(pretrained.load_params(each))
        table.add_row(NAMES[name], f"{score.loss:.4f}", "yes" if name == config.merge_into else f"no: merge_into={name}")
    console.print(table)


def _scorer(run: Run, model: Pretrained, most: int) -> Scorer:
    """The held-out examples of a run, at most so many of them; a UserError where they can't be read any more."""
    data = parse(DataConfig, run.data, where=str(run.folder / runs.CONFIG))
    batch = run.config.get("batch")
    length = int(batch["sequence_length"]) if isinstance(batch, dict) else data.max_length
    found = builder.load_examples(data, data.records or run.dir / "records", model.tokenizer).examples["heldout"]
    examples = [item for item in found.take(range(min(most, len(found)))) if isinstance(item, Example)]
    if not examples:
        raise UserError("the records that the run held out are pairs, which have no one answer")
    mesh = MeshConfig(data=1)
    return Scorer(model.architecture, Examples.of(examples), ROWS, length, Layout(make_mesh(mesh), mesh))
