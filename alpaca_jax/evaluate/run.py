"""Evaluates: scores a model and its baseline, asks people, or draws a frontier."""

from collections.abc import Callable
from typing import Any

from alpaca_jax.evaluate import frontier, score
from alpaca_jax.evaluate.config import Config

ACTIONS: dict[str, Callable[[Config], dict[str, Any]]] = {"score": score.run, "frontier": frontier.run}


def run(config: Config) -> dict[str, Any]:
    """Returns what the action wrote: of `score` the content of dir/evaluate/scores.json."""
    return ACTIONS[config.action](config)
