"""The settings of the objectives that learn from preferences. Their formulas and sources are in `trainer.preferences`."""

from typing import Annotated, Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Above0, Nonnegative, Range

Smoothing = Annotated[float, Range(0, 0.5, open_above=True, give="0 or more and less than 0.5")]  # the share of swapped labels
HELDOUT = "heldout_"
PAIRS = ("preference_loss", "margin", "accuracy", "chosen_logps", "rejected_logps")
REWARDS = ("preference_loss", "margin", "accuracy", "chosen_reward", "rejected_reward")
ANSWERS = ("preference_loss", "kl", "chosen_reward", "rejected_reward", "chosen_logps", "rejected_logps")


class Preferences:
    """What these objectives have in common: each evaluation measures the held-out pairs, and not their cross-entropy."""

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of what each evaluation measures of the held-out pairs."""
        return tuple(HELDOUT + name for name in PAIRS)

    @property
    def heldout_loss(self) -> bool:
        """Whether the cross-entropy of held-out records is measured."""
        return False


@configclass
class DpoConfig(Preferences):
    """Direct preference optimization and its relatives, which compare with a reference: the weights that the run starts from."""

    name: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "robust", "hinge", "ipo", "sigmoid_norm"] = "sigmoid"
    beta: Above0 = 0.1
    label_smoothing: Smoothing = 0.0
    likelihood: Nonnegative = 0.0

    def __post_init__(self) -> None:
        if self.label_smoothing and self.loss in ("hinge", "ipo"):
            raise ValueError(
                f"label_smoothing={self.label_smoothing} has no meaning for loss={self.loss}: give 0, or loss=sigmoid or robust"
            )


@configclass
class SimpoConfig(Preferences):
    """SimPO: mean log-probabilities with a target margin, without a reference."""

    name: Literal["simpo"] = "simpo"
    beta: Above0 = 2.0
    gamma: Nonnegative = 1.0
    likelihood: Nonnegative = 0.0


@configclass
class OrpoConfig(Preferences):
    """ORPO: the likelihood of the chosen answer and an odds ratio, in one stage and without a reference."""

    name: Literal["orpo"] = "orpo"
    weight: Above0 = 0.1
    prompts: bool = True


@configclass
class KtoConfig(Preferences):
    """KTO: single answers that are marked as wanted or not."""

    name: Literal["kto"] = "kto"
    beta: Above0 = 0.1
    desirable: Above0 = 1.0
    undesirable: Above0 = 1.0

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of what each evaluation measures of the held-out answers."""
        return tuple(
            HELDOUT + name for name in ("preference_loss", "kl", "chosen_reward", "rejected_reward", "chosen_logps", "rejected_logps")
        )


@configclass
class RewardConfig(Preferences):
    """A reward model: a number for each answer, larger for the chosen one of a pair."""

    name: Literal["reward"] = "reward"
    centre: Nonnegative = 0.01

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of what each evaluation measures of the held-out pairs."""
        return tuple(HELDOUT + name for name in REWARDS)
