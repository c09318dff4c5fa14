"""What the key `contamination` of a config holds."""

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Share


@configclass
class ContaminationConfig:
    """Whether prompts are looked for among the training records, and where those are."""

    check: bool = True  # where there are prompts, and records are known
    records: tuple[str, ...] | None = None  # files or folders; null: what the model, and those it started from, were trained on
    rouge_l: Share = 0.7  # a record with at least this ROUGE-L touches a prompt: Self-Instruct's limit for a new task
