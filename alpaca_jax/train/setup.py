"""What a run needs before its first step: the model in its places, the batches, the step."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alpaca_jax import hardware
from alpaca_jax.data import builder, template
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.pipeline import Batches
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture, stored_vocab_size
from alpaca_jax.sharding import Layout, make_mesh
from alpaca_jax.train.config import Config
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer import state as states
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
    places: State
    abstract: State
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    first_params: Callable[[], llama.Params]
    step: Callable[[State, dict], tuple[State, dict]]


def prepare(config: Config) -> Setup:
    """Reads the model's sizes, its tokenizer and the data, and derives shapes and shardings; loads no weight yet."""
    layout = Layout(make_mesh(config.mesh), config.mesh)
    source = None if config.model.source is None else pretrained.open(config.model)
    architecture, tokenizer = _origin(config, source)
    data = builder.load_examples(config.data, config.data.records or Path(config.dir) / "records", tokenizer)
    batches = _batches(config, data, layout)
    steps = config.steps or max(1, math.floor(config.epochs * batches.steps_per_epoch))
    optimizer = optimizers.make(config.optimizer, steps)
    stored_vocab = stored_vocab_size(architecture.vocab_size, config.model.vocab_multiple)
    specs = llama.specs(architecture, stored_vocab, jnp.dtype(config.model.dtype))
    places = states.shardings(specs, optimizer, layout)
    step = make_step(
        architecture,
        optimizer,
        layout,
        places,
        compute_dtype=jnp.dtype(config.model.compute_dtype),
        remat=config.model.remat,
        microbatches=config.microbatches,
    )
    return Setup(
        architecture=architecture,
        tokenizer=tokenizer.with_chat_template(template.get(config.data.template, tokenizer).chat_template()),
        eos_ids=() if source is None else source.eos_ids,
        data=data,
        batches=batches,
        steps=steps,
        chip=hardware.identify(config.hardware, jax.devices()[0]),
        layout=layout,
        places=places,
        abstract=states.abstract(specs, optimizer, places),
        optimizer=optimizer,
        schedule=optimizers.learning_rate(config.optimizer, steps),
        first_params=lambda: _first_params(config, architecture, source, places, stored_vocab),
        step=step,
    )


def _batches(config: Config, data: Dataset, layout: Layout) -> Batches:
    # Every device that shares the batch, and every microbatch, takes the same number of rows.
    multiple = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"] * config.microbatches
    train = data.examples["train"]
    epochs = config.epochs
    if config.steps is not None:
        epochs = config.steps / max(1, len(train) // config.batch.examples)
    return Batches(train, config.batch, config.seed, epochs=math.ceil(epochs), multiple=multiple)


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


def _first_params(
    config: Config, architecture: Architecture, source: pretrained.Pretrained | None, places: State, stored_vocab: int
) -> llama.Params:
    """The weights of step 0, each born in its place: read from the source, or random where there is none."""
    if source is None:
        dtype = jnp.dtype(config.model.dtype)
        born = jax.jit(lambda key: llama.init(architecture, key, stored_vocab, dtype), out_shardings=places.params)
        return born(jax.random.key(config.seed))

    def put(path: tuple[str, ...], array: Any) -> jax.Array:
        place = functools.reduce(lambda tree, name: tree[name], path, places.params)
        return jax.device_put(array, place)

    return pretrained.load_params(source, config.model.dtype, put=put, stored_vocab=stored_vocab)
