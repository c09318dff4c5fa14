"""The group `objective` of a train config: what each step minimizes, and by which numbers."""

from typing import Annotated, Literal

from pydantic import Discriminator

from alpaca_jax.config import configclass
from alpaca_jax.train.distill.config import DistillConfig
from alpaca_jax.train.preference.config import DpoConfig, KtoConfig, OrpoConfig, RewardConfig, SimpoConfig
from alpaca_jax.train.rollout.config import GrpoConfig, OnPolicyConfig


@configclass
class SftConfig:
    """Supervised fine-tuning: the cross-entropy of the responses."""

    name: Literal["sft"] = "sft"

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of what each evaluation measures for this objective, beside the held-out loss."""
        return ()

    @property
    def heldout_loss(self) -> bool:
        """Whether the cross-entropy of held-out records is measured."""
        return True


# All of them, told apart by `name`.
ObjectiveConfig = Annotated[
    SftConfig | DistillConfig | DpoConfig | SimpoConfig | OrpoConfig | KtoConfig | RewardConfig | GrpoConfig | OnPolicyConfig,
    Discriminator("name"),
]
