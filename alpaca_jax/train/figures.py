"""The names of what the evaluations of a run measure; light to import, for its settings are checked by them."""

from collections.abc import Mapping, Sequence

from alpaca_jax.scores.answers import AnswersConfig
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.suites.config import SuiteConfig

SUITES, COMPARE = "suites", "compare"
REFERENCE, MODEL = "reference", "model"  # the names of the answers that the file of prompts holds, and of the model's own
COMPARED = ("win_rate", "win_rate_stderr", "length_controlled", "dollars")


def of_suites(suites: Mapping[str, SuiteConfig]) -> list[str]:
    """Returns the names of what suites measure; `suites/NAME/` stands for all of one whose metrics only its tasks know."""
    found = []
    for name, suite in suites.items():
        metrics = ("",) if suite.own is None else suite.own.measured
        found += [f"{SUITES}/{name}/{metric}" for metric in ("score", *metrics)]
    return found


def of_comparison(judge: JudgeConfig | None) -> list[str]:
    """Returns the names of what a comparison measures."""
    return [] if judge is None else [f"{COMPARE}/{figure}" for figure in COMPARED]


def has(names: Sequence[str], name: str) -> bool:
    """Whether a figure is among those; a name that ends in `/` stands for all that begin so."""
    return any(name == one or (one.endswith("/") and name.startswith(one)) for one in names)


def check(answers: AnswersConfig, judge: JudgeConfig) -> None:
    """Raises a ValueError where a run can't compare what the settings ask for: only its own answers, with those of one other."""
    if answers.prompts is None:
        raise ValueError("compare: give answers.prompts=FILE, the prompts whose answers are compared")
    if judge.models != (MODEL,):
        raise ValueError(f"compare.models={list(judge.models)}: during a run, the model's own answers are compared; leave it out")
    if len(judge.against) != 1 or judge.against[0] not in (REFERENCE, *answers.others):
        raise ValueError(
            f"compare.against={list(judge.against)}: a run compares with one set of answers; give compare.against=[reference], which the "
            "file of prompts holds, or answers.others={NAME: FILE} and compare.against=[NAME]"
        )
