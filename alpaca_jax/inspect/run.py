"""Shows the records and the batches of a training run, reading no weights, or how much the layers of its model do."""

import dataclasses
import itertools
from collections import Counter
from typing import Any

import jax

from alpaca_jax import hardware, lock, rundir, storage
from alpaca_jax.data import builder, preference, sources
from alpaca_jax.data.config import Form
from alpaca_jax.data.pipeline import make_batches
from alpaca_jax.footprint import choice
from alpaca_jax.formats import pretrained
from alpaca_jax.inspect import influence, page, reading, sheet, terminal
from alpaca_jax.inspect.config import Config
from alpaca_jax.inspect.summary import RunPlan, Summary
from alpaca_jax.masking import visible
from alpaca_jax.terminal import Console
from alpaca_jax.tokenizer import Tokenizer


def run(config: Config, console: Console | None = None) -> dict[str, Any]:
    """Shows the data sheet, the plan and the first batches of the run that `config` describes; writes `dir/inspect.html`.

    Returns the figures.
    """
    console = console or terminal.Terminal()
    with lock.held(config.dir, "", "inspect"):
        return influence.show(config, console) if config.influence else _inspect(config, console)


def _inspect(config: Config, console: Console) -> dict[str, Any]:
    tokenizer, most = _tokenizer(config)
    config = _settled(config, most)
    where = config.data.records or str(storage.at(config.dir) / "records")
    form = _form(config, where, tokenizer) if config.form == "auto" else config.form
    data = builder.load_examples(config.data, where, tokenizer, form)
    batches = make_batches(data.examples["train"], config.batch, config.seed, config.epochs, config.microbatches, config.steps)
    origins = {name: source.origin for name, source in data.sources.items()}
    summary = Summary(
        sources=[sheet.describe(name, origin) for name, origin in origins.items()],
        facts=sheet.facts(itertools.chain.from_iterable(origin.stream(Counter()) for origin in origins.values())),
        data=data,
        lengths=sheet.lengths(data.examples["train"]),
        plan=RunPlan.of(batches, config.epochs, config.steps),
    )
    first = [(index, batches.batch(index)) for index in range(min(config.batches, summary.plan.steps))]
    rows = [(index, reading.rows(batch, config.rows, form)) for index, batch in first]
    path = rundir.RunDir(config.dir).path("inspect.html")
    rundir.write_atomic(path, visible(page.build(summary, rows, tokenizer)))

    terminal.show_summary(console, summary)
    terminal.legend(console)
    for (index, batch), (_, rows_of_batch) in zip(first, rows, strict=True):
        terminal.show_batch(console, index, batch["tokens"].shape, rows_of_batch, tokenizer)
    console.print(f"\n{path}", soft_wrap=True, highlight=False, markup=False)
    return summary.figures() | {"page": str(path)}


def _tokenizer(config: Config) -> tuple[Tokenizer, int | None]:
    """The model's tokenizer, and the most tokens that it takes, as far as that is known."""
    if config.model.tokenizer is not None:  # enough, whatever model.source says
        a = config.model.architecture
        return pretrained.read_tokenizer(config.model.tokenizer, config.model.cache), a.max_positions if a else None
    opened = pretrained.open(config.model)
    return opened.tokenizer, opened.architecture.max_positions


def _form(config: Config, where: str, tokenizer: Tokenizer) -> Form:
    """What fits most of the records."""
    surveys = [source.survey for source in sources.find(config.data, where, tokenizer).values()]
    counted = Counter[str]()
    for survey in surveys:
        counted.update({kind: survey.counted.get(kind, 0) for kind in ("pairs", "wanted", "unwanted")})
    return preference.following(counted, sum(len(survey.texts) for survey in surveys))


def _settled(config: Config, most: int | None) -> Config:
    """`config` with the lengths that a run takes which has memory enough."""
    precision = hardware.precision(jax.devices()[0])
    length, row = choice.lengths(config.data, config.batch, precision, most)[0]
    data = dataclasses.replace(config.data, max_length=length)
    return dataclasses.replace(config, data=data, batch=dataclasses.replace(config.batch, sequence_length=row))
