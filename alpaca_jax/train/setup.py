"""What a run needs before its first step: the model in its places, the batches, the step."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from alpaca_jax import hardware, storage
from alpaca_jax.data import builder, template
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.pipeline import Batches, make_batches
from alpaca_jax.distributed import lead_first
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture, stored_vocab_size
from alpaca_jax.model.tree import flatten
from alpaca_jax.sharding import Layout, make_mesh
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.train.config import Config
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.optimizer import Optimizer
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.step import make_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """All that does not change from step to step."""

    architecture: Architecture
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    data: Dataset
    batches: Batches
    steps: int
    chip: hardware.Chip
    layout: Layout
    abstract: State
    schedule: optax.Schedule
    first_state: Callable[[], State]
    step: Callable[[State, dict], tuple[State, dict]]
    notes: tuple[str, ...]  # what was left out or guessed when the source was opened

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a checkpoint must have in common with the run that goes on from it."""
        return {"data": self.data.fingerprint, "tokenizer": self.tokenizer.fingerprint}


def prepare(config: Config) -> Setup:
    """Reads the model's sizes, its tokenizer and the data, and derives shapes and shardings; loads no weight yet."""
    layout = Layout(make_mesh(config.mesh), config.mesh)
    source = None if config.model.source is None else pretrained.open(config.model)
    architecture, tokenizer = _origin(config, source)
    with lead_first("data"):
        data = builder.load_examples(config.data, config.data.records or storage.at(config.dir) / "records", tokenizer)
    # Every device that shares the batch, and every microbatch, takes the same number of rows.
    multiple = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"] * config.microbatches
    # A run that goes back goes on behind the poisoned batch, and so may reach an epoch that it would not reach otherwise.
    reach = 2 if config.guard.policy == "rollback" else 1
    looked_at = None if config.steps is None else reach * config.steps
    batches = make_batches(data.examples["train"], config.batch, config.seed, reach * config.epochs, multiple, looked_at)
    steps = config.steps or max(1, math.floor(config.epochs * batches.steps_per_epoch))
    written = template.get(config.data.template, tokenizer)
    optimizer = optimizers.make(config.optimizer, steps)
    specs = llama.specs(
        architecture, stored_vocab_size(architecture.vocab_size, config.model.vocab_multiple), jnp.dtype(config.model.dtype)
    )
    places = states.shardings(specs, optimizer, layout, config.guard)
    return Setup(
        architecture=architecture,
        tokenizer=tokenizer.with_chat_template(written.chat_template()),
        eos_ids=tuple(dict.fromkeys([*(source.eos_ids if source else [tokenizer.eos_id]), written.end_id])),
        data=data,
        batches=batches,
        steps=steps,
        chip=hardware.identify(config.hardware, jax.devices()[0]),
        layout=layout,
        abstract=states.abstract(specs, optimizer, places, config.guard),
        schedule=optimizers.learning_rate(config.optimizer, steps),
        first_state=lambda: _first_state(config, architecture, source, optimizer, places, specs),
        step=_step(config, architecture, optimizer, layout, places),
        notes=source.notes if source else (),
    )


def _step(config: Config, architecture: Architecture, optimizer: Optimizer, layout: Layout, places: State) -> Callable:
    return make_step(
        architecture,
        optimizer,
        layout,
        places,
        compute_dtype=jnp.dtype(config.model.compute_dtype),
        remat=config.model.remat,
        microbatches=config.microbatches,
        guard=config.guard,
    )


def _origin(config: Config, source: pretrained.Pretrained | None) -> tuple[Architecture, Tokenizer]:
    """The model's sizes and its tokenizer, which a model of random weights has to be given."""
    if source is not None:
        return source.architecture, source.tokenizer
    if config.model.architecture is None or config.model.tokenizer is None:
        raise UserError("give model.source=NAME, or model.architecture and model.tokenizer to start from random weights")
    tokenizer = Tokenizer.load(Path(config.model.tokenizer).expanduser())
    if tokenizer.vocab_size > config.model.architecture.vocab_size:
        raise UserError(
            f"{config.model.tokenizer} has {tokenizer.vocab_size} tokens, model.architecture.vocab_size only "
            f"{config.model.architecture.vocab_size}: give model.architecture.vocab_size={tokenizer.vocab_size}"
        )
    return config.model.architecture, tokenizer


def _first_state(
    config: Config,
    architecture: Architecture,
    source: pretrained.Pretrained | None,
    optimizer: Optimizer,
    places: State,
    specs: llama.Params,
) -> State:
    """The state of step 0: each weight born in its place, read from the source, or random where there is none."""
    vocab_size, dtype = specs["embed"]["weight"].shape[0], jnp.dtype(config.model.dtype)
    if source is None:
        born = jax.jit(lambda key: llama.init(architecture, key, vocab_size, dtype), out_shardings=places.params)
        return states.start(born(jax.random.key(config.seed)), optimizer, places, config.guard)

    params = pretrained.load_params(source, config.model.dtype, flatten(places.params).__getitem__, stored_vocab=vocab_size)
    return states.start(params, optimizer, places, config.guard)
