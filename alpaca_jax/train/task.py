"""What an objective needs around the step: its data, what stays fixed beside the base, its batches, its figures."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alpaca_jax.data import builder
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.pack import Batch
from alpaca_jax.data.pipeline import Batches, make_batches
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.llama import Params
from alpaca_jax.model.tree import Tree
from alpaca_jax.sharding import Layout
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.train.config import Config
from alpaca_jax.trainer.assemble import Assembly
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Objective, sft
from alpaca_jax.trainer.weights import Fixed


@dataclasses.dataclass(frozen=True)
class Site:
    """What is known of a run before its step is assembled."""

    architecture: Architecture
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    source: Pretrained | None  # None: random weights
    data: Dataset
    batches: Batches
    steps: int
    layout: Layout


class Task:
    """Supervised fine-tuning; a Task of another objective overrides what differs. The methods are called in the order they stand in."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.site: Site  # from `open` on

    def examples(self, path: str | Path, tokenizer: Tokenizer) -> Dataset:
        """The examples of the records at `path`, or of `data.sources`."""
        return builder.load_examples(self.config.data, path, tokenizer)

    def batches(self, data: Dataset, layout: Layout) -> tuple[Batches, int]:
        """The batches of the run and the number of its steps."""
        config = self.config
        # Every device that shares the batch, and every microbatch, takes the same number of rows.
        multiple = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"] * config.microbatches
        # A run that rolls back continues after the poisoned batch, and so may reach an epoch that it would not reach otherwise.
        reach = 2 if config.guard.policy == "rollback" else 1
        most = None if config.steps is None else reach * config.steps
        batches = make_batches(data.examples["train"], config.batch, config.seed, reach * config.epochs, multiple, most)
        return batches, config.steps or max(1, math.floor(config.epochs * batches.steps_per_epoch))

    def open(self, site: Site) -> None:
        """Opens and checks what else is needed; a UserError names what doesn't fit, before anything is computed."""
        self.site = site

    def objective(self, forward: Forward) -> Objective:
        """What each step minimizes."""
        return sft.objective(forward)

    def others(self) -> dict[str, Tree]:
        """The WeightSpecs of what is fixed beside the base, by name."""
        return {}

    def heads(self) -> dict[str, Tree]:
        """The WeightSpecs of what is trained beside the model, from zero, by name."""
        return {}

    def load(self, name: str, abstract: Tree) -> Tree:
        """The part of `others` with this name in memory; `abstract` has its shapes and places."""
        raise AssertionError(f"{name} is none of `others`")

    def ready(self, assembly: Assembly, trained: Tree, fixed: Fixed, step: int) -> None:
        """Computes what the batches need before the first step of this start, such as log-probabilities of a reference."""

    def batch(self, index: int, step: int, batch: Batch, params: Callable[[], Params]) -> Batch:
        """What the step after `step` steps reads, of batch `index` of the data; `params()` is the whole model as it is now."""
        return batch

    def lengths(self, index: int) -> np.ndarray:
        """The tokens of each example of batch `index`, int64 [n], as throughput and FLOP count them."""
        return self.site.batches.lengths[self.site.batches.indices(index)]

    def evaluate(self, step: int, params: Params) -> dict[str, float]:
        """The figures that the objective's config names as `measured`, of held-out data."""
        return {}

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a checkpoint must have in common with the run that resumes from it, beside its data, tokenizer and weights."""
        return {}
