"""The settings of objectives whose batches are sampled from the run's own weights; light to import."""

from dataclasses import field
from typing import Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Above0, AtLeastTwo, Nonnegative, Nucleus, Positive
from alpaca_jax.rewards.config import RewardConfig
from alpaca_jax.train.distill.config import DistillConfig
from alpaca_jax.train.rollout.advantages import Kind
from alpaca_jax.trainer.rules import Rule

Loss = Literal["grpo", "dapo", "dr_grpo", "gspo", "rloo"]
# As published, see `trainer.rules` and `advantages`.
RULES: dict[str, tuple[Kind, Rule]] = {
    "grpo": ("standard", Rule()),
    "dapo": ("standard", Rule(average="tokens", clip=(0.2, 0.28))),
    "dr_grpo": ("mean", Rule(average="longest")),
    "gspo": ("standard", Rule(ratio="mean", clip=(3e-4, 4e-4))),
    "rloo": ("others", Rule(ratio="answer", beta=0.05)),  # its KL divergence is part of the reward
}
MEASURED = "heldout_reward"


@configclass
class GrpoConfig:
    """Answers in groups, each compared by its reward with the others of its group."""

    name: Literal["grpo"] = "grpo"
    loss: Loss = "dapo"
    group: AtLeastTwo = 8  # answers to each of the `batch.examples` prompts of a step
    max_new_tokens: Positive = 256  # of an answer
    temperature: Above0 = 1.0
    truncated: Literal["count", "mask"] = "count"  # an answer cut at max_new_tokens counts as it is, or not at all
    reuse: Positive = 1  # steps on the same answers
    clip_below: Above0 | None = None  # null: as published for the loss
    clip_above: Above0 | None = None
    beta: Nonnegative | None = None  # of the KL divergence from the weights that the run started from; null: as published, 0 but for rloo
    rewards: dict[str, RewardConfig] = field(default_factory=dict)  # by name; their weighted sum counts
    heldout_samples: Positive = 4  # answers to each held-out prompt, with each evaluation

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("grpo: rewards are missing: give objective.rewards.NAME.name=exact, format, length, tests, python or judge")

    @property
    def measured(self) -> tuple[str, ...]:
        """The mean reward on held-out prompts and its 95% interval, now and before the first step."""
        return (MEASURED, *(f"{MEASURED}_{end}" for end in ("low", "high", "before", "before_low", "before_high")))

    @property
    def heldout_loss(self) -> bool:
        """Held-out records hold what verifies an answer, which needn't be an answer."""
        return False

    @property
    def kind(self) -> Kind:
        """How an answer is compared with its group."""
        return RULES[self.loss][0]

    @property
    def rule(self) -> Rule:
        """The loss, with its numbers."""
        published = RULES[self.loss][1]
        below, above = published.clip
        return Rule(
            ratio=published.ratio,
            average=published.average,
            clip=(self.clip_below or below, self.clip_above or self.clip_below or above),
            beta=published.beta if self.beta is None else self.beta,
            temperature=self.temperature,
            longest=self.max_new_tokens,
        )


@configclass
class OnPolicyConfig(DistillConfig):
    """Distillation on answers that the student samples itself."""

    name: Literal["on_policy"] = "on_policy"  # type: ignore[assignment]
    signal: Literal["live"] = "live"  # no cache can know what the student will say
    divergence: Literal["forward", "reverse", "jsd"] = "reverse"
    share: Nucleus = 1.0  # of the prompts that the student answers; the records answer the others
    max_new_tokens: Positive = 256  # of an answer
    sampling: Above0 = 1.0  # the temperature of sampling; `temperature` is the divergence's
