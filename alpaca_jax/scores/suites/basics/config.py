"""The settings of the suite."""

from typing import Literal

from alpaca_jax.config import configclass, suggestion
from alpaca_jax.ranges import Positive, Seed
from alpaca_jax.scores.suites.basics.questions import CATEGORIES

Metric = Literal["strict", "lenient", "choice", "choice_norm", "probability"]
GENERATED, CHOSEN = ("strict", "lenient"), ("choice", "choice_norm", "probability")


@configclass
class BasicsConfig:
    """Which items are asked, how, and which of the metrics is the score."""

    categories: tuple[str, ...] = ()  # none named: all of them
    limit: Positive | None = None  # the first items of each category; null: all 50
    seed: Seed = 0  # of the items; another one gives other items of the same kinds
    generate: bool = True  # greedy answers, for the metrics strict and lenient
    choose: bool = True  # log-likelihoods of four answers, for choice, choice_norm and probability
    max_tokens: Positive = 32  # of an answer
    template: str | None = None  # null: that of the model
    metric: Metric = "lenient"  # the score

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics that are measured."""
        return (*(GENERATED if self.generate else ()), *(CHOSEN if self.choose else ()))

    def __post_init__(self) -> None:
        for name in self.categories:
            if name not in CATEGORIES:
                near = suggestion(name, CATEGORIES)
                raise ValueError(f"categories={name}: there is no such category{near}; give {', '.join(CATEGORIES)}")
        if not (self.generate if self.metric in GENERATED else self.choose):
            needed = "generate" if self.metric in GENERATED else "choose"
            raise ValueError(f"metric={self.metric} needs {needed}=true; give another metric, or {needed}=true")
