"""The settings of `alpaca-jax inspect`: the part of a train config that decides the batches, and how much of it to show."""

from alpaca_jax.config import configclass
from alpaca_jax.data.config import BatchConfig, DataConfig
from alpaca_jax.formats.config import ModelConfig


@configclass
class Config:
    """The run to inspect; the page is `dir/inspect.html`."""

    dir: str
    seed: int = 0
    epochs: float = 3.0
    steps: int | None = None
    microbatches: int = 1
    model: ModelConfig  # only its tokenizer is read
    data: DataConfig
    batch: BatchConfig
    batches: int = 2  # how many of the first batches to show
    rows: int = 2  # of each batch

    def __post_init__(self) -> None:
        for name in ("batches", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give 1 or more")
