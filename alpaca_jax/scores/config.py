"""What the key `samples` of a config holds."""

from alpaca_jax.config import configclass


@configclass
class SamplesConfig:
    """Prompts that are answered greedily."""

    prompts: tuple[str, ...] = ()
    max_tokens: int = 96  # of an answer
    template: str | None = None  # null: data.template; chat: each model's own

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"samples.max_tokens={self.max_tokens}: give 1 or more")
