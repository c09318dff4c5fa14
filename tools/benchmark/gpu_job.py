"""What a process of the GPU benchmark is to measure, and the data and initial weights that both sides use."""

import dataclasses
from typing import Any

import numpy as np

from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Examples
from alpaca_jax.data.pipeline import Batches, make_batches
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer.optimizer import OptimizerConfig
from tools.benchmark import alpaca, shapes

EXAMPLES, LENGTH, EPOCHS, THEIR_ROWS, WARMUPS = 128, 2048, 3, 4, 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to fit a shape into memory; the peer uses only the dtype."""

    stored: str  # dtype of weights and moments
    remat: str
    microbatches: int


PLANS = {  # the first that fits is measured
    "tiny": [Plan("float32", "none", 1)],
    "smollm2": [Plan("float32", "minimal", 1), Plan("float32", "full", 4)],
    "1b": [Plan("float32", "minimal", 1), Plan("float32", "full", 2), Plan("float32", "full", 8)],
    "7b": [Plan("float32", "full", 1), Plan("bfloat16", "minimal", 1), Plan("bfloat16", "full", 1), Plan("bfloat16", "full", 8)],
}


@dataclasses.dataclass(frozen=True)
class Job:
    """A mode, a shape, its plan, and the user's choices."""

    mode: str
    shape: str
    stored: str
    remat: str
    microbatches: int
    steps: int | None
    records: int | None
    learning_rate: float
    source: str | None
    tokens: str | None

    def examples(self) -> Examples:
        """The examples, from a file of tokens or tokenized here, with the tokenizer of the source if there is one."""
        if self.tokens:
            return alpaca.load(self.tokens)
        return alpaca.examples(limit=self.records, tokenizer=self._opened().tokenizer if self.source else None)

    def model(self) -> tuple[Architecture, Any]:
        """The sizes, and the source's weights as numpy arrays (None without a source)."""
        if self.source is None:
            return shapes.SHAPES[self.shape], None
        from alpaca_jax.formats import names
        from alpaca_jax.model.tree import unflatten

        opened = self._opened()
        read = {path: opened.read(path).astype(np.float32, copy=False) for path in names.weights(opened.architecture)}
        return opened.architecture, unflatten(read)

    def batches(self, examples: Examples) -> Batches:
        """Our batches; the peer's full run uses the same examples in each step."""
        config = BatchConfig(examples=EXAMPLES, sequence_length=LENGTH)
        return make_batches(examples, config, seed=0, epochs=EPOCHS, multiple=self.microbatches)

    def num_steps(self, batches: Batches) -> int:
        """The number of steps to time, or of the full run."""
        everything = EPOCHS * batches.steps_per_epoch
        return min(self.steps or everything, everything) if self.mode == "full" else self.steps or 10

    def optimizer(self) -> OptimizerConfig:
        """AdamW as in the recipe."""
        return OptimizerConfig(learning_rate=self.learning_rate, moments=self.stored)

    def _opened(self) -> Any:
        from alpaca_jax.formats import pretrained

        return pretrained.open(self.source)
