"""What a run needs before its first step: its data, its model's source, and the step that both meet in."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from alpaca_jax import hardware, storage
from alpaca_jax.data import builder, sources, template
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.pipeline import Batches, make_batches
from alpaca_jax.distributed import lead_first
from alpaca_jax.errors import UserError
from alpaca_jax.footprint import choice, limit
from alpaca_jax.footprint.estimate import Footprint
from alpaca_jax.formats import native, pretrained
from alpaca_jax.formats.base import Base
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture, stored_vocab_size
from alpaca_jax.model.tree import by_name, flatten
from alpaca_jax.sharding import Layout, make_mesh
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.train.config import Config
from alpaca_jax.train.settle import machine, settings
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer.assemble import Assembly, assemble
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Factory, sft
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.weights import BASE, Fixed


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that does not change from step to step."""

    config: Config
    source: Pretrained | None  # None: random weights
    architecture: Architecture
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    data: Dataset
    batches: Batches
    steps: int
    chip: hardware.Chip
    layout: Layout
    assembly: Assembly
    schedule: optax.Schedule
    footprint: Footprint  # of a step
    memory: float | None  # bytes of a device

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a checkpoint must have in common with the run that resumes from it."""
        weights = {} if self.source is None else {"weights": self.source.likeness}
        return {"data": self.data.fingerprint, "tokenizer": self.tokenizer.fingerprint} | weights

    @property
    def base_names(self) -> list[str]:
        """The names of the frozen weights that the source holds, so that no checkpoint needs to; none where the source is random."""
        return [] if self.source is None else list(by_name(self.assembly.abstract_fixed[BASE]))

    def start(self) -> tuple[State, Fixed]:
        """The state of step 0 and what stays fixed: read from the source, or random where there is none."""
        if self.source is None:
            return self.assembly.start(self.assembly.random_params(jax.random.key(self.config.seed)))
        return self.assembly.start(self._load(self.assembly.specs))

    def base(self) -> Fixed:
        """The frozen weights alone, read from the source."""
        abstract = self.assembly.abstract_fixed[BASE]
        return {BASE: self._load(abstract) if abstract else {}}

    def _load(self, wanted: llama.Params) -> llama.Params:
        assert self.source is not None
        place = flatten(self.assembly.places).__getitem__
        rows = self.assembly.specs["embed"]["weight"].shape[0]
        names = set(by_name(wanted))
        return pretrained.load_params(self.source, self.config.model.dtype, place, stored_vocab=rows, names=names)


def settled(config: Config) -> Config:
    """Returns the config with data.template=auto replaced by the name of the template that follows the records."""
    written = (config.data.template, *(source.template for source in config.data.sources.values()))
    if template.AUTO not in written:
        return config
    source = None if config.model.source is None else pretrained.open(config.model)
    _, tokenizer = _origin(config, source)
    with lead_first("survey"):
        return dataclasses.replace(config, data=sources.settled(config.data, _records(config), tokenizer))


def prepare(config: Config, objective: Factory = sft.objective) -> Setup:
    """Reads the model's sizes, its tokenizer and the data, and derives shapes and shardings; loads no weight yet."""
    layout = Layout(make_mesh(config.mesh), config.mesh)
    source = None if config.model.source is None else pretrained.open(config.model)
    architecture, tokenizer = _origin(config, source)
    with lead_first("data"):
        data = builder.load_examples(config.data, _records(config), tokenizer)
    batches, steps = _batches(config, data, layout)
    forward = Forward(architecture, jnp.dtype(config.model.compute_dtype), config.model.remat, layout.constrain)
    written = template.get(config.data.template, tokenizer)
    devices, needs = machine(config), settings(config)
    needed = choice.footprint(needs, architecture, devices, batches.rows)
    limit.check(needs, needed, devices)
    return Setup(
        config=config,
        source=source,
        architecture=architecture,
        tokenizer=tokenizer.with_chat_template(written.chat_template()),
        eos_ids=tuple(dict.fromkeys([*(source.eos_ids if source else [tokenizer.eos_id]), written.end_id])),
        data=data,
        batches=batches,
        steps=steps,
        chip=hardware.identify(config.hardware, jax.devices()[0]),
        layout=layout,
        assembly=assemble(
            architecture,
            config.optimizer,
            layout,
            objective(forward),
            steps=steps,
            stored_vocab=stored_vocab_size(architecture.vocab_size, config.model.vocab_multiple),
            dtype=config.model.dtype,
            microbatches=config.microbatches,
            guard=config.guard,
        ),
        schedule=optimizers.learning_rate(config.optimizer, steps),
        footprint=needed,
        memory=devices.memory,
    )


def _records(config: Config) -> str | Path:
    return config.data.records or storage.at(config.dir) / "records"


def _batches(config: Config, data: Dataset, layout: Layout) -> tuple[Batches, int]:
    """The batches of the run and the number of its steps."""
    # Every device that shares the batch, and every microbatch, takes the same number of rows.
    multiple = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"] * config.microbatches
    # A run that rolls back continues after the poisoned batch, and so may reach an epoch that it would not reach otherwise.
    reach = 2 if config.guard.policy == "rollback" else 1
    most = None if config.steps is None else reach * config.steps
    batches = make_batches(data.examples["train"], config.batch, config.seed, reach * config.epochs, multiple, most)
    return batches, config.steps or max(1, math.floor(config.epochs * batches.steps_per_epoch))


def _origin(config: Config, source: Pretrained | None) -> tuple[Architecture, Tokenizer]:
    """The model's sizes and its tokenizer, which a model of random weights has to be given."""
    if source is not None:
        return source.architecture, source.tokenizer
    if config.model.architecture is None or config.model.tokenizer is None:
        raise UserError("give model.source=NAME, or model.architecture and model.tokenizer to start from random weights")
    tokenizer = pretrained.read_tokenizer(config.model.tokenizer, config.model.cache)
    if tokenizer.vocab_size > config.model.architecture.vocab_size:
        raise UserError(
            f"{config.model.tokenizer} has {tokenizer.vocab_size} tokens, model.architecture.vocab_size only "
            f"{config.model.architecture.vocab_size}: give model.architecture.vocab_size={tokenizer.vocab_size}"
        )
    return config.model.architecture, tokenizer


def write_model(setup: Setup, folder: Path, kept: bool) -> None:
    """Writes `train/model/`: the sizes, the tokenizer and, unless the checkpoints keep all weights, the base they stand on."""
    base = native.base_of(folder)
    if base is not None and setup.source is not None:
        base = base.moved(setup.config.model, setup.source)
    elif base is None and not kept:
        assert setup.source is not None
        base = Base.of(setup.config.model, setup.source, setup.base_names)
    native.write(folder, setup.architecture, setup.tokenizer, setup.eos_ids, setup.config.model.source, base)


def check_base(setup: Setup, folder: Path) -> None:
    """Raises a UserError where the run in `folder` stands on the frozen weights of another model than its source holds now."""
    if (base := native.base_of(folder)) is not None and setup.source is not None:
        base.check(setup.source, folder.parent)
