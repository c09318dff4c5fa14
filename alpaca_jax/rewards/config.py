"""The settings of rewards, one class for each kind; light to import."""

from typing import Annotated, Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import BIG, Duration, Natural, Nonnegative, Positive, Range
from alpaca_jax.teacher.config import TeacherConfig

Weight = Annotated[float, Range(-BIG, BIG)]


@configclass
class ExactConfig:
    """1 where the answer is the record's own, else 0. `number`: the last number in the answer counts."""

    name: Literal["exact"]
    weight: Weight = 1.0
    number: bool = False
    after: str = ""  # only what follows the last of these marks counts, as `####` in GSM8K; an answer without the mark gets 0


@configclass
class FormatConfig:
    """The share of the conditions that the answer meets; at least one is to be given."""

    name: Literal["format"]
    weight: Weight = 1.0
    pattern: str | None = None  # a regular expression that the whole answer matches (RE2's syntax, `.` matches a line break too)
    bullets: Positive | None = None  # exactly this many lines, each a bullet point
    json_object: bool = False  # a JSON object and nothing else

    def __post_init__(self) -> None:
        if self.pattern is None and self.bullets is None and not self.json_object:
            raise ValueError("format: give pattern, bullets=N or json_object=true")


@configclass
class LengthConfig:
    """1 inside `least` to `most`, and outside falling linearly to 0 over a distance of `slack`."""

    name: Literal["length"]
    weight: Weight = 1.0
    unit: Literal["words", "characters"] = "words"
    least: Natural = 0
    most: Positive
    slack: Natural = 0

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise ValueError(f"length: least={self.least} is above most={self.most}: give a smaller least")


@configclass
class ConfinedConfig:
    """What a program of a stranger may take."""

    seconds: Duration = 5.0  # of wall clock, then it counts as hanging
    megabytes: Positive = 512  # of memory
    unconfined: bool = False  # runs it where the kernel can't keep it from files and network (Linux 5.13 and later can)


@configclass
class TestsConfig(ConfinedConfig):
    """1 where the answer's Python code passes the record's own `output`, which holds asserts; else 0."""

    __test__ = False  # for pytest
    name: Literal["tests"]
    weight: Weight = 1.0


@configclass
class PythonConfig(ConfinedConfig):
    """What `reward(prompt, answer, key)` in your own file returns: a number; it sees Python's standard library alone."""

    name: Literal["python"]
    weight: Weight = 1.0
    file: str


@configclass
class JudgeRewardConfig:
    """The grade, 0 to 1, that a model behind an endpoint gives an answer."""

    name: Literal["judge"]
    weight: Weight = 1.0
    teacher: TeacherConfig  # the judge's endpoint
    criterion: str = "Judge by how helpful, correct and clear it is."
    max_tokens: Positive = 8  # of a grade; a judge that reasons needs thousands
    max_dollars: Nonnegative | None = 5.0  # for all grades of a run; null: no limit
    retries: Natural = 2  # of a grade that can't be read


RewardConfig = ExactConfig | FormatConfig | LengthConfig | TestsConfig | PythonConfig | JudgeRewardConfig
