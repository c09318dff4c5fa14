"""Regenerates the files that tests compare with: run `python -m tools.goldens` after a change that is meant to change them.

parameters/NAME.txt lists, for configs/model/NAME.yaml, the settings that the shapes don't show, then all weights.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alpaca_jax import config as configuration
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.help import Catalog
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import flatten

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
SHOWN = ("rope_theta", "norm_eps", "max_positions", "rope_scaling.kind")  # settings listed even at their defaults


def architectures() -> dict[str, Architecture]:
    """Returns the architecture of every option of the group `model` that gives one."""
    options = Catalog("train", [configuration.directory()]).options("model")
    with initialize_config_dir(str(configuration.directory() / "model"), version_base="1.3"):
        mappings = {name: OmegaConf.to_container(compose(name)) for name in options}
    models = {name: configuration.parse(ModelConfig, mapping, name) for name, mapping in mappings.items()}
    return {name: model.architecture for name, model in models.items() if model.architecture is not None}


def parameters(architecture: Architecture) -> str:
    """Returns a text: the settings that the shapes don't show, each weight (path, dtype, shape, logical axes), the number of parameters."""
    weights = list(flatten(llama.specs(architecture)).items())
    lines = [
        f"{'.'.join(path):<34}{spec.dtype.name}  {'x'.join(map(str, spec.shape)):<18}  {' '.join(spec.axes)}" for path, spec in weights
    ]
    total = sum(math.prod(spec.shape) for _, spec in weights)
    return "\n".join([*_settings(architecture), "", *lines, "", f"total {total:,}", ""])


def _settings(config: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{name}.")
        elif name in SHOWN or (field.default is not dataclasses.MISSING and value != field.default):
            yield f"{name} = {value}"


def main() -> None:
    """Rewrites all files, and removes those of deleted configs."""
    folder = GOLDENS / "parameters"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {f"{name}.txt": parameters(architecture) for name, architecture in architectures().items()}
    for file in folder.iterdir():
        if file.name not in texts:
            file.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text)
    print(f"{len(texts)} files in {folder}")


if __name__ == "__main__":
    main()
