"""What is scored on what: the settings that were given, and those of the run for the rest."""

import dataclasses

from alpaca_jax import storage
from alpaca_jax.data.config import DataConfig
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.ranges import AUTO
from alpaca_jax.records import FILE
from alpaca_jax.scores import runs


@dataclasses.dataclass(frozen=True)
class Settings:
    """One evaluation, with nothing left open."""

    model: ModelConfig
    baseline: ModelConfig | None
    data: DataConfig
    places: dict[str, str]  # of the records, by the name of their source
    length: int  # slots of a row


def settle(config: Config) -> Settings:
    """The Settings of a config: `dir`, where it is a run, gives model, records, template and split; else the run of the model does.

    A UserError where no model is given and `dir` is no run, or where there is nothing to score.
    """
    run = runs.at(config.dir)
    model = config.model.settled()
    if model.source is None:
        if run is None:
            what = "no training run is there" if storage.at(config.dir).exists() else "there is no such folder"
            raise UserError(f"dir={config.dir}: {what}; give dir=RUN, the folder of a run, or model.source=NAME, the model to score")
        model = dataclasses.replace(model, source=str(run.folder))
    run = run or runs.of(str(model.source))
    data = config.data.completed(run.data if run else {}, "evaluate")
    if not data.heldout and not config.samples.prompts:
        none = f"{run.dir} held no records out" if run and config.data.heldout is None else "data.heldout=0"
        raise UserError(f"{none} and samples.prompts=[]: there is nothing to score; give data.records with data.heldout=N, or prompts")
    if data.sources:
        places = {name: source.records for name, source in data.sources.items()}
    elif data.records is not None or run is None:
        places = {"records": str(data.records or storage.at(config.dir) / "records" / FILE)}
    else:
        places = run.records()
    return Settings(
        model=model,
        baseline=None if config.baseline is None else dataclasses.replace(model, source=config.baseline, tokenizer=None),
        data=data,
        places=places,
        length=data.max_length if config.batch.sequence_length == AUTO else max(config.batch.sequence_length, data.max_length),
    )
