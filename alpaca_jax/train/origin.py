"""The model that a run starts from, with the parts of it that the run's first start chose to keep."""

from pathlib import Path

import jax

from alpaca_jax.config import parse, to_mapping
from alpaca_jax.distributed import from_lead
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.pruning.kept import Kept
from alpaca_jax.rundir import RunDir, read_json, write_json
from alpaca_jax.train.config import Config

FILE = "kept.json"  # in train/model/


def opened(config: Config) -> Pretrained | None:
    """The model of `config.model.source`, the same parts of it at every start and in every process; None for random weights."""
    if config.model.source is None:
        return None
    source = pretrained.open(config.model, _before(RunDir(config.dir).path("train", "model", FILE), config.model))
    if source.kept is None or jax.process_count() == 1:
        return source
    return pretrained.open(config.model, parse(Kept, from_lead(to_mapping(source.kept))))


def write(folder: Path, model: ModelConfig, source: Pretrained | None) -> None:
    """Writes into `train/model/` which parts of its source a run keeps, where it doesn't keep all."""
    if source is not None and source.kept is not None:
        write_json(folder / FILE, {"asked": _asked(model), "kept": to_mapping(source.kept)})


def _before(file: Path, model: ModelConfig) -> Kept | None:
    """What an earlier start with these settings kept."""
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or content.get("asked") != _asked(model):
        return None
    return parse(Kept, content.get("kept") or {}, where=str(file))


def _asked(model: ModelConfig) -> dict[str, object]:
    every = to_mapping(model)
    return {name: every[name] for name in ("keep_layers", "widths")}
