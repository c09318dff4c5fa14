"""A judge in the middle of a run: it compares what the weights answer now with given answers, within its budget of dollars."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
from rich.text import Text

from alpaca_jax import storage
from alpaca_jax.distributed import is_lead
from alpaca_jax.errors import Lost, UserError
from alpaca_jax.rundir import RunDir, write_json
from alpaca_jax.scores import prompts as prompt_sets
from alpaca_jax.scores.answers import AnswersConfig, AnswerSet, file, gather, own
from alpaca_jax.scores.answers.reference import REFERENCE, reference
from alpaca_jax.scores.judge.asking import Judge, folder_name
from alpaca_jax.scores.judge.compare import compare
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.teacher.bill import prices
from alpaca_jax.teacher.client import key
from alpaca_jax.teacher.growing import growing
from alpaca_jax.terminal import Console
from alpaca_jax.train.figures import COMPARE, MODEL


class Comparison:
    """Prompts, the answers to compare with, and a judge; all is there before the first step, or a UserError says what isn't.

    Every process answers the prompts; the lead alone asks the judge. The verdicts lie in train/compare/JUDGE: none is paid for twice.
    """

    def __init__(self, answers: AnswersConfig, judge: JudgeConfig, folder: RunDir, console: Console) -> None:
        # Answers of other weights are set aside without a question: here they change with every step.
        self._answers, self._judge = dataclasses.replace(answers, set_aside=True), judge
        self._folder, self._console = folder.path("train", COMPARE, "x").parent, console
        self._whole = prompt_sets.read(str(answers.prompts))
        self._prompts = self._whole.first(answers.limit)
        if is_lead():
            prices(judge.teacher)
            key(judge.teacher)
            self._others = self._given(judge.against[0])

    def figures(self, loaded: Loaded, step: int) -> dict[str, float]:
        """Returns win rate, its standard error and the length-controlled one in percent, under names such as `compare/win_rate`.

        Where the judge can't be asked, or its budget is used up, that is said and the run goes on: a figure without a verdict is left out.
        """
        answered = self._answered(loaded, step)
        if not is_lead():
            return {}
        try:
            with growing(self._folder / folder_name(self._judge)) as place:
                value = compare(Judge(self._judge, place, self._say), self._prompts, [answered], [self._others], {}).value
        except (UserError, Lost) as error:
            self._warn(f"step {step} was not compared, and the run goes on: {error}")
            return {}
        write_json(self._folder / f"{step}.json", value)
        if value["stopped_by"]:
            self._warn(f"step {step}: compare.max_dollars ended the comparison before every pair had a verdict")
        return {f"{COMPARE}/{name}": number for name, number in _figures(value).items() if number is not None}

    def _given(self, name: str) -> AnswerSet:
        if name == REFERENCE:
            return reference(self._prompts)
        return gather.one(name, self._answers, self._whole, self._folder / "answers", self._console)

    def _answered(self, loaded: Loaded, step: int) -> AnswerSet:
        """The model's answers, kept in train/compare/answers/STEP.jsonl; several processes each make all of them, to keep in step."""
        kept = self._folder / "answers" / f"{step}.jsonl"
        if jax.process_count() == 1 and not storage.is_remote(kept):
            return own.answer(loaded, MODEL, self._prompts, self._answers, kept, self._console)
        with tempfile.TemporaryDirectory() as folder:
            found = own.answer(loaded, MODEL, self._prompts, self._answers, Path(folder) / "answers.jsonl", self._console)
        if is_lead():
            file.write(kept, found)
        return found

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def _warn(self, line: str) -> None:
        self._console.print(Text(line, style="yellow"), highlight=False, soft_wrap=True)


def _figures(value: dict[str, Any]) -> dict[str, float | None]:
    """The figures of the one comparison; the win rate is that without the position's share, where it could be taken out."""
    (found,) = value["comparisons"]
    place, controlled = found["position"] or {}, found["length_controlled"] or {}
    rate = place.get("corrected") or place.get("plain") or {}
    return {
        "win_rate": rate.get("value"),
        "win_rate_stderr": rate.get("standard_error"),
        "length_controlled": (controlled.get("estimate") or {}).get("value"),
        "dollars": (value["bill"] or {}).get("dollars"),
    }
