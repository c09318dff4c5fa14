"""The optimizer and its schedule, through optax: clipping, a family's direction, decay, the learning rate."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from alpaca_jax.config import configclass
from alpaca_jax.model.tree import Tree, map_with_path
from alpaca_jax.ranges import Above0, Fraction, Inside, Nonnegative, Share
from alpaca_jax.trainer import families
from alpaca_jax.trainer.rounding import in_bfloat16, in_fp32
from alpaca_jax.trainer.weights import is_matrix


@configclass
class OptimizerConfig:
    """One of four families, with a warm-up and a decay of its learning rate; the defaults are AdamW's (arXiv:1711.05101) in Alpaca."""

    name: Literal["adamw", "adafactor", "lion", "muon"] = "adamw"
    learning_rate: Above0 = 2e-5
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)  # of adamw, lion, and of muon's weights that are no layer's matrix
    eps: Above0 = 1e-8  # of adamw and muon
    momentum: Fraction | None = None  # of muon, which needs one (0.95), and of adafactor (null: none, and no memory for it)
    weight_decay: Nonnegative = 0.0  # times the learning rate; never of a norm's scale or a bias
    clip: Above0 | None = 1.0  # the largest global norm of the gradient
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction = 0.03  # share of the steps
    final: Share = 0.0  # the last learning rate as a share of the peak
    moments: Literal["float32", "bfloat16"] = "float32"  # what they are stored in; computed in float32
    frozen: tuple[str, ...] = ()  # patterns of weights that stay as they are, such as embed.* or layers.*_norm.scale
    ema: Inside | None = None  # the decay of an exponential moving average of the weights, kept in float32

    def __post_init__(self) -> None:
        if self.name == "muon" and self.momentum is None:
            raise ValueError("muon orthogonalises a momentum: give momentum=0.95")
        if self.name in ("adamw", "lion") and self.momentum is not None:
            raise ValueError(f"momentum is read by muon and adafactor; {self.name} has betas")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """`init(trained)` and `update(gradients, opt_state, trained)` as in optax, and the average of the weights where `ema` asks for one."""

    init: Callable[[Tree], Any]
    update: Callable[[Tree, Any, Tree], tuple[Tree, Any]]
    ema: float | None

    def first_average(self, trained: Tree) -> Tree | None:
        """The average of step 0: a copy of the trained weights in fp32; None where no average is kept."""
        if self.ema is None:
            return None
        return jax.tree.map(lambda weight: jnp.array(weight, jnp.float32, copy=True), trained)

    def next_average(self, average: Tree | None, trained: Tree) -> Tree | None:
        """The average after a step that led to these weights (Polyak and Juditsky 1992, with exponential weights)."""
        if average is None or self.ema is None:
            return None
        decay = self.ema
        return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new.astype(jnp.float32), average, trained)


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


def make(config: OptimizerConfig, steps: int) -> Optimizer:
    """Clipping, then the family's direction, decay on the matrices alone, and the learning rate of a run of `steps` steps."""
    direction = {
        "adamw": lambda: families.adamw(config.betas, config.eps),
        "adafactor": lambda: families.adafactor(config.momentum),
        "lion": lambda: families.lion(config.betas),
        "muon": lambda: families.muon(config.momentum or 0.0, config.betas, config.eps),
    }[config.name]()
    parts = [
        None if config.clip is None else optax.clip_by_global_norm(config.clip),
        direction,
        optax.add_decayed_weights(config.weight_decay, mask=_matrices) if config.weight_decay else None,
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    ]
    chain = optax.chain(*(part for part in parts if part is not None))
    stored = {"float32": lambda inner: inner, "bfloat16": in_bfloat16}[config.moments]
    inner = in_fp32(stored(chain))

    def update(gradients: Tree, opt_state: Any, weights: Tree) -> tuple[Tree, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count; ours stays strict under test
            return inner.update(gradients, opt_state, weights)

    return Optimizer(inner.init, update, config.ema)


def _matrices(params: Tree) -> Tree:
    return map_with_path(lambda path, _: is_matrix(path[-1]), params)
