"""What a part of an evaluation is."""

from collections.abc import Sequence
from typing import Any, Protocol

from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.settings import Settings
from alpaca_jax.report import Section
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.terminal import Console


class Part(Protocol):
    """A module that measures one thing. Its value in scores.json is JSON, and all that is shown is made from it."""

    NAME: str  # its key in scores.json

    def wanted(self, config: Config, settings: Settings) -> bool:
        """Whether the settings ask for it."""

    def needs_model(self, config: Config) -> bool:
        """Whether a model is measured in memory."""

    def with_model(self, context: Context, loaded: Loaded) -> Any:
        """What is measured of one model: of the baseline first ("before"), then of the model ("after")."""

    def conclude(self, context: Context, before: Any, after: Any) -> Any:
        """The value for scores.json, once no model is in memory; None for a model that there isn't."""

    def show(self, value: Any, scores: dict[str, Any], console: Console) -> None:
        """Prints the value for a person."""

    def sections(self, value: Any, scores: dict[str, Any]) -> Sequence[Section]:
        """The value as sections of the page."""
