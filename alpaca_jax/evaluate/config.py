"""The settings of `alpaca-jax evaluate`."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from alpaca_jax.config import configclass, parse, to_mapping
from alpaca_jax.data.config import BatchConfig, DataConfig, Example
from alpaca_jax.evaluate.vote.config import VoteConfig
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.ranges import AUTO, Natural, OrAuto, Seed
from alpaca_jax.scores.answers import AnswersConfig
from alpaca_jax.scores.config import SamplesConfig
from alpaca_jax.scores.contamination import ContaminationConfig
from alpaca_jax.scores.frontier.config import FrontierConfig
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.sharding import MeshConfig


@configclass
class ScoredData(DataConfig):
    """Which records to score on; what is null is as the run has it."""

    template: str | None = None  # type: ignore[assignment]
    heldout: Natural | None = None  # type: ignore[assignment]
    on_error: Literal["stop", "skip"] | None = None  # type: ignore[assignment]
    max_length: Annotated[Example, OrAuto()] | None = None  # type: ignore[assignment]
    truncation: Literal["truncate", "drop", "split"] | None = None  # type: ignore[assignment]
    allow_trained: bool = False  # score on records that the model was trained on, too

    def __post_init__(self) -> None:
        DataConfig(**self._given())

    def completed(self, trained: Mapping[str, Any], where: str) -> DataConfig:
        """These settings, with those that a run was trained with, or else the defaults, in the place of what is null."""
        given = self._given()
        names = {field.name for field in dataclasses.fields(DataConfig)} - {"cache"}
        places = {"records", "sources", "limit"} if {"records", "sources"} & given.keys() else set()
        of_run = {name: value for name, value in trained.items() if name in names - places}
        own = {name: value for name, value in to_mapping(self).items() if name in given}
        return parse(DataConfig, of_run | own, where)

    def _given(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(DataConfig)}
        return {name: value for name, value in values.items() if value not in (None, {}, AUTO)}


@configclass
class Config:
    """One evaluation; `dir/evaluate/scores.json` receives it."""

    dir: str
    action: Literal["score", "vote", "frontier"] = "score"
    parts: tuple[str, ...] | None = None  # of `score`: the parts to measure now; null: all that have settings
    seed: Seed = 0
    model: ModelConfig
    baseline: str | None = None  # a second source, scored the same way before
    data: ScoredData = ScoredData()
    batch: BatchConfig
    mesh: MeshConfig = MeshConfig()  # over which the model is spread
    samples: SamplesConfig = SamplesConfig()
    answers: AnswersConfig = AnswersConfig()
    contamination: ContaminationConfig = ContaminationConfig()
    suites: dict[str, SuiteConfig] = dataclasses.field(default_factory=dict)
    compare: JudgeConfig | None = None
    vote: VoteConfig = VoteConfig()  # of `vote`
    frontier: FrontierConfig = FrontierConfig()  # of `frontier`
