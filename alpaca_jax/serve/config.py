"""The settings of `alpaca-jax serve`."""

import dataclasses

from alpaca_jax.config import configclass
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.ranges import AtLeastTwo, Port, Positive


@configclass
class Config:
    """A model, where it listens, and how much it takes on at once."""

    model: ModelConfig
    host: str = "127.0.0.1"  # there is no key: another address opens the model to everyone who reaches it
    port: Port = 8000  # 0: any free one
    ready: str | None = None  # a file that gets {base_url, model, pid} once the endpoint answers
    name: str | None = None  # the model's name in the endpoint; null: from its source
    adapters: dict[str, str] = dataclasses.field(default_factory=dict)  # name in the endpoint -> PEFT folder or training run, over model
    slots: Positive = 8  # sequences decoded at once; more requests wait
    max_length: AtLeastTwo = 2048  # tokens of one sequence, prompt and answer
    parent: Positive | None = None  # a process id; the server ends when it is gone
