"""The published judgements of the shared data, as the statistics take them; what each file holds is in its README."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.scores.statistics import Difficulties, Gamed, Vote, from_alpaca_eval, last_votes

LEVELS = {"a-is-better": 1.0, "a-is-slightly-better": 1.0, "tie": 0.5, "b-is-slightly-better": 0.0, "b-is-better": 0.0}


@dataclasses.dataclass(frozen=True)
class Annotated:
    """One judge's verdicts on one model: preferences and lengths by prompt, and what was published and computed."""

    model: str
    judge: str
    baseline: str
    coded: list[float | None]  # as published, by row
    preferences: dict[str, float]
    lengths: dict[str, tuple[int, int]]
    published: dict[str, Any]
    computed: dict[str, Any]


class Judged:
    """Everything in the folder `judged`."""

    def __init__(self, folder: Path) -> None:
        self.expected = json.loads((folder / "expected.json").read_text())
        self.shown_first = [bool(line["model_shown_first"]) for line in _lines(folder / "instructions.jsonl")]
        self._baselines = json.loads((folder / "baselines.json").read_text())
        self.difficulties = self._difficulties(json.loads((folder / "difficulty.json").read_text()))
        self.annotated = [self._annotated(line) for line in _lines(folder / "annotations.jsonl")]
        self.rows = list(_lines(folder / "human_votes.jsonl"))

    def one(self, model: str, judge: str = "weighted_alpaca_eval_gpt4_turbo") -> Annotated:
        return next(each for each in self.annotated if (each.model, each.judge) == (model, judge))

    def votes(self) -> list[Vote]:
        """The 869 human votes that count: eight were replaced by a later one of the same annotator."""
        return last_votes(
            Vote(row["first"], row["second"], LEVELS[row["preference"]], row["prompt"], row["annotator"]) for row in self.rows
        )

    def _annotated(self, line: dict[str, Any]) -> Annotated:
        values = from_alpaca_eval(line["preferences"])
        lengths = zip(line["lengths"], self._baselines[line["baseline"]], strict=True)
        return Annotated(
            line["model"],
            line["judge"],
            line["baseline"],
            line["preferences"],
            {str(row): float(value) for row, value in enumerate(values) if not np.isnan(value)},
            {str(row): (ours, theirs) for row, (ours, theirs) in enumerate(lengths) if ours is not None},
            line["published"],
            line["computed"],
        )

    def _difficulties(self, found: dict[str, Any]) -> Difficulties:
        values = np.array(found["difficulty"])
        known = found["gamed"]
        differences = [np.array(self._baselines["gpt4_1106_preview"]) - np.array(lengths) for lengths in known["lengths"].values()]
        regulariser = Gamed(
            known["weight"],
            np.concatenate([np.tanh(each / each.std(ddof=1)) for each in differences]),
            np.tile(values, len(differences)),
            known["sum_tanh_preference"],
            known["sum_difficulty_preference"],
        )
        return Difficulties({str(row): float(value) for row, value in enumerate(values)}, regulariser)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
