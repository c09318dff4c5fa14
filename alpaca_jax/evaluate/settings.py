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
from alpaca_jax.scores.runs import Run


@dataclasses.dataclass(frozen=True)
class Settings:
    """One evaluation, with nothing left open."""

    model: ModelConfig | None  # None: nothing is measured in memory
    baseline: ModelConfig | None
    run: Run | None  # that `dir` is the folder of, or that the model comes from
    data: DataConfig
    places: dict[str, str]  # of the records, by the name of their source
    length: int  # slots of a row

    def nothing(self, config: Config) -> UserError:
        """The error where no part is asked for."""
        none = f"{self.run.dir} held no records out" if self.run and config.data.heldout is None else "data.heldout=0"
        return UserError(
            f"{none} and samples.prompts=[]: there is nothing to score; give data.records with data.heldout=N, prompts, or suites"
        )


def no_model(config: Config) -> UserError:
    """The error where a model is needed and none is given."""
    what = "no training run is there" if storage.at(config.dir).exists() else "there is no such folder"
    return UserError(
        f"dir={config.dir}: {what}; give dir=RUN, the folder of a run, or model.source=NAME, the model to score; or parts=[compare], which "
        "needs no model where all answers are in files"
    )


def settle(config: Config) -> Settings:
    """The Settings of a config: `dir`, where it is a run, gives model, records, template and split; else the run of the model does."""
    run = runs.at(config.dir)
    model: ModelConfig | None = config.model.settled()
    assert model is not None
    if model.source is None:
        model = None if run is None else dataclasses.replace(model, source=str(run.folder))
    run = run or (runs.of(str(model.source)) if model else None)
    data = config.data.completed(run.data if run else {}, "evaluate")
    if data.sources:
        places = {name: source.records for name, source in data.sources.items()}
    elif data.records is not None or run is None:
        places = {"records": str(data.records or storage.at(config.dir) / "records" / FILE)}
    else:
        places = run.records()
    return Settings(
        model=model,
        baseline=None if config.baseline is None else dataclasses.replace(config.model.settled(), source=config.baseline, tokenizer=None),
        run=run,
        data=data,
        places=places,
        length=data.max_length if config.batch.sequence_length == AUTO else max(config.batch.sequence_length, data.max_length),
    )
