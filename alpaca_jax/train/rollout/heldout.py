"""The mean reward on held-out prompts, with its interval, before the first step and along the way."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alpaca_jax import rundir
from alpaca_jax.distributed import from_lead, is_lead
from alpaca_jax.model.llama import Params
from alpaca_jax.rewards.scoring import Sample, Scored
from alpaca_jax.scores.statistics.estimate import Estimate, of_mean
from alpaca_jax.train.rollout import prompts
from alpaca_jax.train.rollout.config import MEASURED, GrpoConfig
from alpaca_jax.train.rollout.prompts import Prompt
from alpaca_jax.train.rollout.sampling import Answer, Sampler, seed_of

BEFORE = "before.json"
ASIDE = 1 << 32  # no batch has this index: seeds of held-out prompts are none of training


class Scoring(Protocol):
    """Who samples and scores."""

    own: GrpoConfig
    sampler: Sampler

    def score(self, chosen: Sequence[Prompt], answers: Sequence[Answer]) -> list[tuple[Sample, Scored]]: ...


class Heldout:
    """Samples `heldout_samples` answers to each held-out prompt, always with the same seeds."""

    def __init__(self, task: Scoring, examples: Any, seed: int, folder: Path) -> None:
        self._task, self._seed, self._folder = task, seed, folder
        self._prompts = prompts.of(examples, range(len(examples)))

    def before(self, step: int, params: Callable[[], Params]) -> None:
        """Measures at step 0, and keeps it: a later start of the run reads it."""
        path = self._folder / BEFORE
        self._before = from_lead(_kept(path) if is_lead() else {})
        if not self._before and step == 0:
            self._before = self._figures(step, params(), "_before")
            if is_lead():
                rundir.write_json(path, self._before)

    def figures(self, step: int, params: Params) -> dict[str, float]:
        """The figures of a step, and those from before the first one."""
        return self._figures(step, params, "") | self._before

    def _figures(self, step: int, params: Params, name: str) -> dict[str, float]:
        count = self._task.own.heldout_samples
        asked = [prompt for prompt in self._prompts for _ in range(count)]
        seeds = [seed_of(self._seed, ASIDE, place, number) for place in range(len(self._prompts)) for number in range(count)]
        answers = self._task.sampler.sample(params, [prompt.ids for prompt in asked], seeds, step)
        rewards = [scored.reward for _, scored in self._task.score(asked, answers)]
        means = [
            np.mean(some)
            for start in range(0, len(rewards), count)
            if (some := [reward for reward in rewards[start : start + count] if reward is not None])
        ]
        if not means:
            return {}
        found: Estimate = of_mean(np.array(means))  # answers to one prompt aren't independent, prompts are
        ends = {"": found.value, "_low": found.low, "_high": found.high}
        return from_lead({f"{MEASURED}{name}{end}": float(value) for end, value in ends.items() if value is not None})


def _kept(path: Path) -> dict[str, float]:
    return rundir.read_json(path) if path.is_file() else {}
