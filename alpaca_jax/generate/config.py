"""The settings of `generate`."""

from typing import Annotated, Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import BIG, Natural, Nonnegative, Nucleus, Positive, Range, Seed, Share
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.teacher.config import TeacherConfig

Temperature = Annotated[float, Range(0, 100)]

# What a text model can't look at, listen to or open (the list of Self-Instruct and Alpaca).
BLOCKLIST = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot", "go to", "video",
    "audio", "music", "flowchart", "diagram",
)  # fmt: skip


@configclass
class Sampling:
    temperature: Temperature = 1.0
    instruction_temperature: Temperature | None = None  # for instructions (magpie); null: the same
    top_p: Nucleus = 1.0
    max_tokens: Positive = 512  # of an answer
    instruction_max_tokens: Positive = 128  # of an instruction (magpie)


@configclass
class SelfInstruct:
    shown: Positive = 3  # seed tasks in a prompt
    asked: Positive = 20  # length of the requested list, including those shown
    max_tokens: Positive = 3072  # of the list


@configclass
class Magpie:
    prefix: str = ""  # the teacher's chat template up to the user's turn
    stop: tuple[str, ...] = ()  # texts that end a turn
    openings: tuple[str, ...] = ("",)  # first words of the user's turn, used in rotation, for variety; "": none
    answer: Literal["chat", "completions"] = "chat"  # how to ask for the answer
    system: str = ""  # the system message for the answer (answer=chat); empty: the server's own
    turn: str = ""  # the template from the end of the user's turn to the assistant's (answer=completions)


@configclass
class Pairs:
    prompts: str | None = None  # a file of prompts to answer several times
    answers: Annotated[int, Range(2, 64)] = 4  # to each
    by: Literal["judge", "reward", "shorter", "longer"] = "judge"  # which answer is better
    reward: str | None = None  # by=reward: the run of objective=reward that scores the answers
    least: Annotated[float, Range(-BIG, BIG)] | None = None  # by=reward: the least reward of a chosen answer; null: any
    margin: Share = 0.0  # the least difference of points, 0 to 1, by which a judge must prefer the chosen answer to the rejected one
    evaluation: str | None = None  # instead of prompts: the folder of a run whose answers a judge has compared, or people
    said_by: Literal["judge", "people"] | None = None  # of an evaluation; null: both, and people count more


@configclass
class Budget:
    dollars: Nonnegative | None = None
    requests: Positive | None = None  # sent, retries included


@configclass
class Filters:
    min_words: Natural = 4  # of an instruction
    max_words: Positive = 150
    blocklist: tuple[str, ...] = BLOCKLIST  # words that an instruction must not contain
    plain_start: bool = True  # an instruction must begin with an ASCII letter or digit, and not with "Write a program"
    rouge_l: Share = 0.7  # drop instructions with a ROUGE-L above this to a kept one
    refusals: bool = True  # drop answers that decline
    broken: bool = True  # drop answers that repeat themselves, or contain undecodable bytes or template fragments
    cut: bool = True  # drop answers cut off by the token limit

    def __post_init__(self) -> None:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words={self.min_words} is above max_words={self.max_words}: every instruction would be dropped")


@configclass
class Config:
    """The `generate` verb: `dir/records` gets records.jsonl, manifest.json and answers/, the log from which a later start resumes."""

    dir: str
    teacher: TeacherConfig
    method: Literal["self_instruct", "magpie", "pairs"] = "self_instruct"
    count: Positive = 64
    seed: Seed = 0
    seeds: str | None = None
    replay: bool = False
    sampling: Sampling = Sampling()
    self_instruct: SelfInstruct = SelfInstruct()
    magpie: Magpie = Magpie()
    pairs: Pairs = Pairs()
    compare: JudgeConfig | None = None  # the judge of pairs
    budget: Budget = Budget()
    filters: Filters = Filters()
    patience: Positive | None = 100  # requests in a row without a kept record, after which the run ends; null: no limit
    decontaminate: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.method == "self_instruct" and not 0 < self.self_instruct.shown < self.self_instruct.asked:
            raise ValueError("self_instruct.shown must be above 0 and below self_instruct.asked, the length of the requested list")
        if self.method == "pairs":
            self._check_pairs()
        if self.method != "magpie":
            return
        if self.teacher.endpoint != "completions":
            raise ValueError(
                "method=magpie has the model continue an incomplete chat template, so it needs teacher.endpoint=completions; hosted chat "
                "endpoints refuse that: use method=self_instruct with them"
            )
        if not self.magpie.prefix:
            raise ValueError(
                "magpie.prefix is missing: give the teacher's chat template up to the user's turn, and what ends a turn in magpie.stop"
            )
        if not self.magpie.openings:
            raise ValueError('magpie.openings is empty: give [""] for no opening')
        if self.magpie.answer == "completions" and not self.magpie.turn:
            raise ValueError(
                "magpie.turn is missing: magpie.answer=completions needs the template from the end of the user's turn to the assistant's"
            )

    def _check_pairs(self) -> None:
        if (self.pairs.prompts is None) == (self.pairs.evaluation is None):
            raise ValueError(
                "method=pairs: give pairs.prompts=FILE, prompts that are answered several times, or pairs.evaluation=DIR, a run whose "
                "answers were compared"
            )
        if self.pairs.evaluation is not None:
            return
        if self.pairs.by == "judge" and self.compare is None:
            raise ValueError(
                "compare is missing: name the judge with compare=judge compare.teacher.model=NAME (or compare=judge_endpoint, "
                "compare=judge_local), or give pairs.by=shorter"
            )
        if self.pairs.by == "reward" and self.pairs.reward is None:
            raise ValueError("pairs.by=reward needs a reward model: give pairs.reward=DIR, a run of train objective=reward")
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature=0 gives the same answer each time, and a pair needs two: give one above 0")
