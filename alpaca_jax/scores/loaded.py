"""A model that is asked and scored in this process."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from alpaca_jax.data import template
from alpaca_jax.data.template import Template
from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.weights import Weights
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.sharding import Layout
from alpaca_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model on the devices of `layout`, with its tokenizer and the template that renders its prompts.

    `load` is called when the weights are needed for the first time: a measurement whose result is on disk already needs none.
    """

    source: str  # where it comes from
    format: str  # with the step of a checkpoint
    tokenizer: Tokenizer
    template_name: str
    architecture: Architecture
    layout: Layout
    dtype: str  # in which it decodes
    compute_dtype: str  # in which a loss is computed
    eos_ids: tuple[int, ...]
    load: Callable[[], llama.Params]
    alive: Callable[[], None] = lambda: None  # called after each piece of work, for whoever watches that it goes on
    stamp: str = ""  # of the files of weights: other weights have another

    @functools.cached_property
    def params(self) -> llama.Params:
        """The weights (see `model.llama`), stacked over layers."""
        return self.load()

    @functools.cached_property
    def weights(self) -> Weights:
        """The weights as decoding reads them, without a copy. Let go of them before they are trained on."""
        return weights.of_run(self.params)

    @functools.cached_property
    def program(self) -> Program:
        """The functions that decode it."""
        return Program.on(self.architecture, self.layout, self.dtype)

    @functools.cached_property
    def template(self) -> Template:
        """The template that renders its prompts."""
        return template.get(self.template_name, self.tokenizer)

    def batch(self, slots: int) -> Batch:
        """A batch of up to `slots` sequences that it decodes at once."""
        return Batch(self.program, self.weights, slots=slots)

    def identity(self) -> dict[str, Any]:
        """What an answer depends on beside the prompt and the sampling, as JSON: kept answers of another identity are another model's."""
        return {
            "source": self.source,
            "format": self.format,
            "weights": self.stamp,
            "tokenizer": self.tokenizer.fingerprint,
            "template": self.template_name,
            "dtype": self.dtype,
        }
