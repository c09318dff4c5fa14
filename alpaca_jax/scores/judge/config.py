"""The settings of a comparison by a judge."""

from typing import Annotated, Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Natural, Nonnegative, Positive, Range
from alpaca_jax.teacher.config import TeacherConfig


@configclass
class JudgeConfig:
    """The `compare` group: who judges, how its verdicts are read, what they may cost, and what the model is compared with."""

    teacher: TeacherConfig  # the judge's endpoint
    mode: Literal["auto", "logprobs", "letter", "json"] = "auto"  # how a verdict is given; auto: the first that the judge can do
    against: tuple[str, ...] = ("baseline",)  # also: names of other answer sets, and reference (the outputs in the prompt set)
    max_dollars: Nonnegative | None = 5.0  # for all verdicts of this judge in this folder; null: no limit
    max_tokens: Positive | None = None  # of a verdict; null: by the mode. A judge that reasons needs thousands
    temperature: Annotated[float, Range(0, 100)] = 0.0
    retries: Natural = 2  # of a verdict that can't be read, each with another seed

    def __post_init__(self) -> None:
        if not self.against:
            raise ValueError("against=[] leaves nothing to compare with: give baseline, reference or the names of answer sets")
        if len(set(self.against)) < len(self.against):
            raise ValueError(f"against={list(self.against)} names one of them twice")
