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
    models: tuple[str, ...] = ("model",)  # whose answers are compared: model, baseline, names of answers.others
    against: tuple[str, ...] = ("baseline",)  # with whose: the same names, and reference, the answers that the file of prompts holds
    max_dollars: Nonnegative | None = 5.0  # for all verdicts of this judge in this folder; null: no limit
    max_tokens: Positive | None = None  # of a verdict; null: by the mode. A judge that reasons needs thousands
    temperature: Annotated[float, Range(0, 100)] = 0.0
    difficulties: str | None = None  # AlpacaEval's df_gamed.csv, or a file with an id and a difficulty a line
    retries: Natural = 2  # of a verdict that can't be read, each with another seed

    def __post_init__(self) -> None:
        for name in ("models", "against"):
            names = getattr(self, name)
            if not names:
                raise ValueError(f"{name}=[] leaves nothing to compare: give model, baseline, reference or the names of answer sets")
            if len(set(names)) < len(names):
                raise ValueError(f"{name}={list(names)} names one of them twice")
