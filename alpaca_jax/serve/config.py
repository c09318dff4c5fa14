"""The settings of `alpaca-jax serve`."""

from alpaca_jax.config import configclass
from alpaca_jax.formats.config import ModelConfig


@configclass
class Config:
    """A model, where it listens, and how much it takes on at once."""

    model: ModelConfig
    host: str = "127.0.0.1"  # there is no key: another address opens the model to everyone who reaches it
    port: int = 8000  # 0: any free one
    ready: str | None = None  # a file that gets {base_url, model, pid} once the endpoint answers
    name: str | None = None  # the model's name in the endpoint; null: from its source
    slots: int = 8  # sequences decoded at once; more requests wait
    max_length: int = 2048  # tokens of one sequence, prompt and answer
    parent: int | None = None  # a process id; the server ends when it is gone

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port={self.port}: give 1 to 65535, or 0 for any free one")
        if self.slots < 1:
            raise ValueError(f"slots={self.slots}: give 1 or more")
        if self.max_length < 2:
            raise ValueError(f"max_length={self.max_length}: give 2 or more tokens, one for the prompt and one for the answer")
