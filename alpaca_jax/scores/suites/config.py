"""What a suite is: one entry of the key `suites`, chosen from configs/suite/ or written out."""

from typing import Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Natural, Positive, Seed
from alpaca_jax.scores.suites.basics.config import CHOSEN, GENERATED, BasicsConfig
from alpaca_jax.teacher.config import AtOnce, address_problem

METRICS = (*GENERATED, *CHOSEN)  # of our own suite


@configclass
class SuiteConfig:
    """Tasks of lm-evaluation-harness, by their names there, or a suite of our own; null leaves a setting to the task."""

    tasks: tuple[str, ...] = ()  # tasks, groups or tags of the harness
    own: BasicsConfig | None = None  # in the place of tasks: our own suite, which needs no download; of the other keys it reads `metrics`
    folder: str | None = None  # of task YAML of one's own, in the place of those that come with the harness
    data: str | None = None  # a folder of JSONL to read in the place of the hub's data sets: FOLDER/[CONFIG/]SPLIT.jsonl
    num_fewshot: Natural | None = None  # solved examples before each question
    limit: Positive | None = None  # questions of each task, the first ones; null: all
    chat: bool = False  # questions in the model's chat template; else plain text, as base models are asked
    metrics: tuple[str, ...] = ()  # to report, the one that counts first; none: all
    max_tokens: Positive | None = None  # most tokens of an answer
    slots: AtOnce = 8  # answers that are generated, or requests that are under way, at once
    seed: Seed = 1234  # of the choice of examples; the harness's own default
    via: Literal["process", "serve"] = "process"  # the model in memory, or over HTTP
    base_url: str | None = None  # with via=serve: a server that has the model; null: our own is started

    def __post_init__(self) -> None:
        if bool(self.tasks) == bool(self.own):
            raise ValueError("a suite has either tasks or is our own; choose one by its name, suites=[mmlu], or give tasks=[arc_easy]")
        if self.base_url and self.via != "serve":
            raise ValueError("base_url names a server, which needs via=serve")
        if self.base_url is not None and (problem := address_problem(self.base_url)):
            raise ValueError(f"base_url {problem}")

    @property
    def reported(self) -> tuple[str, ...]:
        """The metrics to report, the one that counts first; none: all, as the tasks have them."""
        if self.metrics or self.own is None:
            return self.metrics
        return (self.own.metric, *(name for name in METRICS if name != self.own.metric))

    def shots(self, own: int | None) -> int:
        """How many examples go before the questions of a task that has `own` ones; a task with 0 never has any, as in the harness."""
        return own or 0 if own == 0 or self.num_fewshot is None else self.num_fewshot
