"""What is `auto` in a config, chosen once for a run: by its model and devices, or as an earlier start of it chose."""

import dataclasses

import jax

from alpaca_jax import documents, hardware, storage
from alpaca_jax.footprint import choice
from alpaca_jax.footprint.choice import Machine, Settings
from alpaca_jax.formats import pretrained
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import RunDir
from alpaca_jax.train.config import Config


def machine(config: Config) -> Machine:
    """The devices that are there."""
    memory = hardware.memory(config.hardware, jax.local_devices()[0], jax.local_device_count())
    return Machine(jax.device_count(), hardware.precision(jax.devices()[0]), memory)


def settings(config: Config) -> Settings:
    """The part of a config that decides what a device needs."""
    return Settings(config.model, config.data, config.batch, config.mesh, config.optimizer, config.microbatches)


def settled(config: Config, folder: RunDir) -> Config:
    """`config` without any `auto`, so that the config.yaml of the run holds what was chosen."""
    chosen = settings(config)
    if not chosen.open:
        return config
    path = folder.root / "train" / "config.yaml"
    with storage.explained(path):
        before = documents.yaml_value(documents.read(path), str(path)) if path.is_file() else {}
    chosen = choice.remembered(chosen, before if isinstance(before, dict) else {})
    if chosen.open and (architecture := _architecture(config)) is not None:
        chosen = choice.choose(chosen, architecture, machine(config))
    return dataclasses.replace(config, model=chosen.model, data=chosen.data, batch=chosen.batch, mesh=chosen.mesh)


def differences(before: Config, after: Config) -> str:
    """What was chosen, as it would be given on the command line."""
    chosen = {key: value for key, value in dataclasses.asdict(settings(after)).items() if isinstance(value, dict)}
    return " ".join(f"{key}={chosen[key.partition('.')[0]][key.partition('.')[2]]}" for key in settings(before).open)


def _architecture(config: Config) -> Architecture | None:
    return config.model.architecture if config.model.source is None else pretrained.open(config.model).architecture
