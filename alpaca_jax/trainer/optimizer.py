"""The optimizer and its schedule, through optax."""

from typing import Any, Literal

import optax

from alpaca_jax.config import configclass


@configclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with a warm-up and a decay; the defaults are the Alpaca recipe's."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = 1.0  # the largest global norm of the gradient
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03  # share of the steps
    final: float = 0.0  # the last learning rate as a share of the peak

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the steps, at least 0 and below 1; got {self.warmup}")


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of every step: a linear warm-up over ceil(warmup * steps) steps, then the schedule down to its final share."""
    warmup_steps = int(-(-config.warmup * steps // 1))
    peak, end = config.learning_rate, config.learning_rate * config.final
    decay_steps = max(1, steps - warmup_steps)
    decay = {
        "cosine": optax.cosine_decay_schedule(peak, decay_steps, alpha=config.final),
        "linear": optax.linear_schedule(peak, end, decay_steps),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    if not warmup_steps:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps])


def make(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, then AdamW with decay on the matrices alone (norm scales are not decayed)."""
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.betas[0],
        b2=config.betas[1],
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_is_matrix if config.weight_decay else None,
    )
    return adamw if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), adamw)


def _is_matrix(params: dict[str, Any]) -> dict[str, Any]:
    return {name: _is_matrix(value) if isinstance(value, dict) else name != "scale" for name, value in params.items()}
