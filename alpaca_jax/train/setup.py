"""What a run needs before its first step: its data, its model's source, and the step that both meet in."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from alpaca_jax import hardware, storage
from alpaca_jax.data import sources, template
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.pipeline import Batches
from alpaca_jax.distributed import lead_first
from alpaca_jax.errors import UserError
from alpaca_jax.footprint import choice, limit
from alpaca_jax.footprint.estimate import Footprint
from alpaca_jax.formats import native, pretrained
from alpaca_jax.formats.adapter import targets
from alpaca_jax.formats.base import Base
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture, stored_vocab_size
from alpaca_jax.model.tree import by_name, flatten
from alpaca_jax.sharding import Layout, make_mesh
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.train import origin, tasks
from alpaca_jax.train.config import Config
from alpaca_jax.train.settle import machine, settings
from alpaca_jax.train.task import Site, Task
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer.assemble import Assembly, assemble
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Factory
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.weights import BASE, Fixed


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that does not change from step to step."""

    config: Config
    task: Task
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
        return {"data": self.data.fingerprint, "tokenizer": self.tokenizer.fingerprint} | weights | self.task.fingerprints

    @property
    def adapter_weights(self) -> int | None:
        """The number of weights that an adapter trains; None where the model's own are trained."""
        trained = self.assembly.abstract_state.trained
        return None if self.config.adapter is None else sum(leaf.size for leaf in jax.tree.leaves(trained))

    @property
    def base_names(self) -> list[str]:
        """The names of the frozen weights that the source holds, so that no checkpoint needs to; none where the source is random."""
        return [] if self.source is None else list(by_name(self.assembly.abstract_fixed[BASE]))

    def start(self) -> tuple[State, Fixed]:
        """The state of step 0 and what stays fixed: read from the source, or random where there is none."""
        seed = self.config.seed
        params = self.assembly.random_params(jax.random.key(seed)) if self.source is None else self._load(self.assembly.specs)
        state, fixed = self.assembly.start(params, seed)
        return state, fixed | self.others()

    def base(self) -> Fixed:
        """What is fixed: the frozen weights, read from the source, and what the objective needs beside them."""
        abstract = self.assembly.abstract_fixed[BASE]
        return {BASE: self._load(abstract) if abstract else {}} | self.others()

    def others(self) -> Fixed:
        """What the objective needs beside the frozen weights."""
        return {name: self.task.load(name, part) for name, part in self.assembly.abstract_fixed.items() if name != BASE}

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
    source = origin.opened(config)
    _, tokenizer = _origin(config, source)
    with lead_first("survey"):
        return dataclasses.replace(config, data=sources.settled(config.data, _records(config), tokenizer))


def prepare(config: Config, objective: Factory | None = None) -> Setup:
    """Reads the model's sizes, its tokenizer and the data, and derives shapes and shardings; loads no weight yet.

    `objective` is what each step minimizes, instead of what `config.objective` names.
    """
    task = tasks.of(config)
    layout = Layout(make_mesh(config.mesh), config.mesh)
    source = origin.opened(config)
    architecture, tokenizer = _origin(config, source)
    with lead_first("data"):
        data = task.examples(_records(config), tokenizer)
    batches, steps = task.batches(data, layout)
    adapter = None if config.adapter is None else targets.plan(config.adapter, architecture)
    forward = Forward(architecture, jnp.dtype(config.model.compute_dtype), config.model.remat, layout.constrain, adapter)
    written = template.get(config.data.template, tokenizer)
    tokenizer = tokenizer.with_chat_template(written.chat_template())
    eos_ids = tuple(dict.fromkeys([*(source.eos_ids if source else [tokenizer.eos_id]), written.end_id]))
    task.open(Site(architecture, tokenizer, eos_ids, source, data, batches, steps, layout))
    devices, needs = machine(config), settings(config)
    needed = choice.footprint(needs, architecture, devices, batches.rows)
    limit.check(needs, needed, devices)
    return Setup(
        config=config,
        task=task,
        source=source,
        architecture=architecture,
        tokenizer=tokenizer,
        eos_ids=eos_ids,
        data=data,
        batches=batches,
        steps=steps,
        chip=hardware.identify(config.hardware, jax.devices()[0]),
        layout=layout,
        assembly=assemble(
            forward,
            config.optimizer,
            layout,
            objective or task.objective,
            steps=steps,
            stored_vocab=stored_vocab_size(architecture.vocab_size, config.model.vocab_multiple),
            dtype=config.model.dtype,
            microbatches=config.microbatches,
            guard=config.guard,
            others=task.others(),
            heads=task.heads(),
            seed=config.seed,
            nf4=None if config.adapter is None else config.adapter.nf4,
        ),
        schedule=optimizers.learning_rate(config.optimizer, steps),
        footprint=needed,
        memory=devices.memory,
    )


def _records(config: Config) -> str | Path:
    return config.data.records or storage.at(config.dir) / "records"


def _origin(config: Config, source: Pretrained | None) -> tuple[Architecture, Tokenizer]:
    """The model's sizes and its tokenizer, which a model of random weights has to be given."""
    if source is not None:
        return source.architecture, source.tokenizer
    if config.model.architecture is None or config.model.tokenizer is None:
        raise UserError("give model.source=NAME, or model.architecture and model.tokenizer to start from random weights")
    tokenizer = pretrained.read_tokenizer(config.model.tokenizer, config.model.cache)
    if config.adapter is not None and config.adapter.base is not None:
        raise UserError("adapter.base=nf4 stores trained weights in four bits: give model.source=NAME, or adapter.base=null")
    if tokenizer.vocab_size > config.model.architecture.vocab_size:
        raise UserError(
            f"{config.model.tokenizer} has {tokenizer.vocab_size} tokens, model.architecture.vocab_size only "
            f"{config.model.architecture.vocab_size}: give model.architecture.vocab_size={tokenizer.vocab_size}"
        )
    return config.model.architecture, tokenizer


def write_model(setup: Setup, folder: Path, kept: bool) -> None:
    """Writes `train/model/`: sizes, tokenizer, the settings of an adapter, and the base of a run whose checkpoints lack weights."""
    base = native.base_of(folder)
    if base is not None and setup.source is not None:
        base = base.moved(setup.config.model, setup.source)
    elif base is None and not kept:
        assert setup.source is not None
        base = Base.of(setup.config.model, setup.source, setup.base_names)
    native.write(folder, setup.architecture, setup.tokenizer, setup.eos_ids, setup.config.model.source, base, setup.config.adapter)
    origin.write(folder, setup.config.model, setup.source)


def check_base(setup: Setup, folder: Path) -> None:
    """Raises a UserError where the run in `folder` stands on the frozen weights of another model than its source holds now."""
    if (base := native.base_of(folder)) is not None and setup.source is not None:
        base.check(setup.source, folder.parent)
