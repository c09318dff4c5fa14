"""What is `auto` in a config, chosen once for a run: by its model and devices, or as an earlier start of it chose."""

import dataclasses

import jax

from alpaca_jax import documents, hardware, storage
from alpaca_jax.footprint import choice
from alpaca_jax.footprint.choice import Machine, Settings
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import RunDir
from alpaca_jax.train import origin
from alpaca_jax.train.config import Config


def machine(config: Config) -> Machine:
    """The devices that are there."""
    memory = hardware.memory(config.hardware, jax.local_devices()[0], jax.local_device_count())
    return Machine(jax.device_count(), hardware.precision(jax.devices()[0]), memory)


def settings(config: Config) -> Settings:
    """The part of a config that decides what a device needs."""
    return Settings(config.model, config.data, config.batch, config.mesh, config.optimizer, config.microbatches, config.adapter)


def chosen(config: Config, folder: RunDir) -> Config:
    """`config` without any `auto`, so that the config.yaml of the run holds what was chosen."""
    found = settings(config)
    if not found.open:
        return config
    path = folder.root / "train" / "config.yaml"
    with storage.explained(path):
        before = documents.yaml_value(documents.read(path), str(path)) if path.is_file() else {}
    found = choice.remembered(found, before if isinstance(before, dict) else {})
    if found.open and (architecture := _architecture(config)) is not None:
        found = choice.choose(found, architecture, machine(config))
    return dataclasses.replace(config, model=found.model, data=found.data, batch=found.batch, mesh=found.mesh)


def differences(before: Config, after: Config) -> str:
    """What was chosen, as it would be given on the command line."""
    groups = dataclasses.asdict(settings(after))
    return " ".join(f"{key}={groups[key.partition('.')[0]][key.partition('.')[2]]}" for key in settings(before).open)


def _architecture(config: Config) -> Architecture | None:
    source = origin.opened(config)
    return config.model.architecture if source is None else source.architecture
