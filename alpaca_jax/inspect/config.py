"""The settings of `alpaca-jax inspect`: the part of a train config that decides the batches, and how much of it to show."""

from typing import Literal

from alpaca_jax.config import configclass
from alpaca_jax.data.config import BatchConfig, DataConfig, Form
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.ranges import Above0, Positive, Seed


@configclass
class Config:
    """The run to inspect; the page is `dir/inspect.html`."""

    dir: str
    seed: Seed = 0
    epochs: Above0 = 3.0
    steps: Positive | None = None
    microbatches: Positive = 1
    model: ModelConfig  # only its tokenizer is read, unless `influence` asks for more
    data: DataConfig
    batch: BatchConfig
    form: Form | Literal["auto"] = "auto"  # what is made of a record; auto: pairs where most records have a rejected answer, ...
    batches: Positive = 2  # how many of the first batches to show
    rows: Positive = 2  # of each batch
    influence: bool = False  # instead of the records: how much each layer of the model does
