"""What KTO needs around the step: beside each marked answer the same prompt with the answer to another one."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.example import Example, ExampleStore, Features, Group
from alpaca_jax.data.mixture import Mixture
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.train.preference.config import KtoConfig
from alpaca_jax.train.preference.task import PreferenceTask
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Objective, preference
from alpaca_jax.trainer.objectives.preference import Measure


@dataclasses.dataclass(frozen=True)
class Mismatched:
    """Groups of an answer of `store` and of its prompt with the next answer in the store that another prompt has."""

    store: ExampleStore
    longest: int  # tokens that a mismatched text is cut to

    @functools.cached_property
    def others(self) -> np.ndarray:
        """The number of the item whose answer stands mismatched beside each one, int64 [N]; a UserError where all prompts are equal."""
        prompts = [_prompt(item).tobytes() for item in self._all(range(len(self.store)))]
        if len(set(prompts)) < 2:
            raise UserError("objective=kto needs answers to different prompts, from which it estimates its KL: give more records")
        others, number = np.zeros(len(prompts), np.int64), len(prompts)
        following = next(place for place in range(number) if prompts[place] != prompts[number - 1])
        for place in reversed(range(number)):
            if place + 1 < number and prompts[place + 1] != prompts[place]:
                following = place + 1
            others[place] = following
        return others

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each group, int64 [N]."""
        whole = np.asarray(self.store.lengths)
        answers = np.array([len(item.ids) - len(_prompt(item)) for item in self._all(range(len(self.store)))])
        return whole + np.minimum(whole - answers + answers[self.others], self.longest)

    @property
    def features(self) -> Features:
        """The facts of the answers, in groups of two."""
        return dataclasses.replace(self.store.features, parts=2)

    def __len__(self) -> int:
        return len(self.store)

    def take(self, indices: Sequence[int]) -> list[Group]:
        """Returns the groups of these numbers."""
        own, other = self._all(indices), self._all(self.others[list(indices)].tolist())
        return [Group((one, self._mixed(one, two))) for one, two in zip(own, other, strict=True)]

    def _all(self, indices: Sequence[int]) -> list[Example]:
        return [part for item in self.store.take(list(indices)) for part in item.parts]

    def _mixed(self, one: Example, other: Example) -> Example:
        prompt, start = _prompt(one), len(_prompt(other))
        ids = np.concatenate([prompt, other.ids[start:]])[: self.longest]
        return dataclasses.replace(Example.answering(ids, len(prompt)), facts=one.facts)


class KtoTask(PreferenceTask):
    """KTO: answers that are each marked as wanted or not."""

    form = "labelled"

    def examples(self, path: str | Path, tokenizer: Tokenizer) -> Dataset:
        """The marked answers of the records at `path`, each with a mismatched one."""
        data = super().examples(path, tokenizer)
        if isinstance(data.examples["train"], Mixture):
            raise UserError("objective=kto reads one set of records: give data.records instead of data.sources")
        assert isinstance(self.config.data.max_length, int)
        stores = {split: Mismatched(store, self.config.data.max_length) for split, store in data.examples.items()}
        return dataclasses.replace(data, examples=stores)

    def measure(self, forward: Forward) -> Measure:
        """The terms of KTO."""
        config = self.config.objective
        assert isinstance(config, KtoConfig)
        return preference.measure_answers(forward, config.beta, config.desirable, config.undesirable)

    def objective(self, forward: Forward) -> Objective:
        """The mean weighted loss over answers."""
        config = self.config.objective
        assert isinstance(config, KtoConfig)
        return preference.unpaired(forward, config.beta, config.desirable, config.undesirable)


def _prompt(example: Example) -> np.ndarray:
    """The tokens before the last answer."""
    context = np.flatnonzero(~example.learnt)
    return example.ids[: context[-1] + 1]
