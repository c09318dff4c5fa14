"""What the key `samples` of a config holds."""

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Positive


@configclass
class SamplesConfig:
    """Prompts that are answered greedily."""

    prompts: tuple[str, ...] = ()
    max_tokens: Positive = 96  # of an answer
    template: str | None = None  # null: data.template; chat: each model's own
