"""The optimizer and its schedule, through optax: clipping, a family's direction, decay, the learning rate."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from alpaca_jax.config import configclass
from alpaca_jax.model.tree import Tree, map_with_path
from alpaca_jax.ranges import Above0, Fraction, Inside, Nonnegative, Share
from alpaca_jax.trainer import families
from alpaca_jax.trainer import schedule as schedules
from alpaca_jax.trainer.rounding import in_bfloat16, in_fp32
from alpaca_jax.trainer.schedule import Numbers
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
    """`init(trained)` and `update(gradients, opt_state, trained, numbers)` as in optax, and an average of the weights where `ema` is set.

    `numbers` are the run's own; a compiled step has them as an argument, so they are no part of the state.
    """

    init: Callable[[Tree], Any]
    update: Callable[..., tuple[Tree, Any]]
    ema: float | None
    numbers: Any = None

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


def numbers(config: OptimizerConfig, steps: int) -> Numbers:
    """What a run of `steps` steps hands to its step as arguments."""
    return schedules.numbers(config.learning_rate, config.warmup, config.final, steps, config.clip, config.weight_decay)


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of every step: a linear warm-up over ceil(warmup * steps) steps, then the schedule down to its final share."""
    return functools.partial(schedules.reported, config.schedule, numbers(config, steps))


def make(config: OptimizerConfig, steps: int) -> Optimizer:
    """Clipping, then the family's direction, decay on the matrices alone, and the learning rate of a run of `steps` steps."""
    own = numbers(config, steps)

    def update(gradients: Tree, opt_state: Any, weights: Tree, numbers: Numbers = own) -> tuple[Tree, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count; ours stays strict under test
            return _chain(config, numbers).update(gradients, opt_state, weights)

    return Optimizer(_chain(config, own).init, update, config.ema, own)


def _chain(config: OptimizerConfig, n: Numbers) -> optax.GradientTransformation:
    direction = {
        "adamw": lambda: families.adamw(config.betas, config.eps),
        "adafactor": lambda: families.adafactor(config.momentum),
        "lion": lambda: families.lion(config.betas),
        "muon": lambda: families.muon(config.momentum or 0.0, config.betas, config.eps),
    }[config.name]()
    parts = [
        # XLA drops a product with the constant 1, which changes last places: the usual norm stays a constant.
        None if config.clip is None else optax.clip_by_global_norm(1.0 if config.clip == 1 else n.clip),
        direction,
        optax.add_decayed_weights(n.weight_decay, mask=_matrices) if config.weight_decay else None,
        optax.scale_by_learning_rate(lambda count: schedules.learning_rate(config.schedule, n, count)),
    ]
    chain = optax.chain(*(part for part in parts if part is not None))
    stored = {"float32": lambda inner: inner, "bfloat16": in_bfloat16}[config.moments]
    return in_fp32(stored(chain))


def _matrices(params: Tree) -> Tree:
    return map_with_path(lambda path, _: is_matrix(path[-1]), params)
