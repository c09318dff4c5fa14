"""The settings of `alpaca-jax evaluate`."""

from alpaca_jax.config import configclass
from alpaca_jax.data.config import BatchConfig, DataConfig
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.ranges import Seed
from alpaca_jax.scores.config import SamplesConfig
from alpaca_jax.sharding import MeshConfig


@configclass
class Config:
    """One evaluation; `dir/evaluate/scores.json` receives it."""

    dir: str
    seed: Seed = 0
    model: ModelConfig
    baseline: str | None = None  # a second source, scored the same way before
    data: DataConfig
    batch: BatchConfig
    mesh: MeshConfig = MeshConfig()  # over which the model is spread
    samples: SamplesConfig = SamplesConfig()

    def __post_init__(self) -> None:
        if self.model.source is None:
            raise ValueError("model.source: give the model to score, such as model.source=runs/laptop/train")
        if self.data.heldout < 1 and not self.samples.prompts:
            raise ValueError("data.heldout=0 and samples.prompts=[]: there is nothing to score; hold records out, as the training did")
