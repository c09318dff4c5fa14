"""The group `objective` of a train config: what each step minimizes, and by which numbers."""

from typing import ClassVar, Literal

from alpaca_jax.config import configclass


@configclass
class SftConfig:
    """Supervised fine-tuning: the cross-entropy of the responses."""

    name: Literal["sft"] = "sft"
    measured: ClassVar[tuple[str, ...]] = ()  # what each evaluation measures for this objective, beside the held-out loss
    heldout_loss: ClassVar[bool] = True  # whether the cross-entropy of held-out records is measured


ObjectiveConfig = SftConfig  # a union of all of them, told apart by `name`
