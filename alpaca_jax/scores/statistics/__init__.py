"""The statistics of preferences: pure functions of numbers, which read no file and ask nobody.

A preference is 1 where the model's answer is preferred to the baseline's, 0 where it isn't, 0.5 for a tie, between them a judge's
probability, and NaN or None for no verdict. Win rates and differences are in percent. Results are frozen dataclasses of plain Python
values, None where there is no number, so `dataclasses.asdict` makes JSON of them.
"""

from alpaca_jax.scores.statistics.agreement import Agreement, agreement, kappa, longer
from alpaca_jax.scores.statistics.bradley_terry import Ranking, Strength, Vote, bradley_terry, last_votes
from alpaca_jax.scores.statistics.estimate import Estimate, wilson
from alpaca_jax.scores.statistics.flags import Flag, answer_flags, family, judge_flags
from alpaca_jax.scores.statistics.length import Difficulties, Gamed, LengthControlled, gamed, length_controlled
from alpaca_jax.scores.statistics.linked import Apart
from alpaca_jax.scores.statistics.paired import Difference, SignTest, holm, needed, paired
from alpaca_jax.scores.statistics.position import Position, one_order, position
from alpaca_jax.scores.statistics.preference import by_prompt, from_alpaca_eval, outcomes
from alpaca_jax.scores.statistics.rate import Rate, win_rate
from alpaca_jax.scores.statistics.verdict import Verdict, verdict, verdict_of_rate

__all__ = [
    "Agreement",
    "Apart",
    "Difference",
    "Difficulties",
    "Estimate",
    "Flag",
    "Gamed",
    "LengthControlled",
    "Position",
    "Ranking",
    "Rate",
    "SignTest",
    "Strength",
    "Verdict",
    "Vote",
    "agreement",
    "answer_flags",
    "bradley_terry",
    "by_prompt",
    "family",
    "from_alpaca_eval",
    "gamed",
    "holm",
    "judge_flags",
    "kappa",
    "last_votes",
    "length_controlled",
    "longer",
    "needed",
    "one_order",
    "outcomes",
    "paired",
    "position",
    "verdict",
    "verdict_of_rate",
    "wilson",
    "win_rate",
]
