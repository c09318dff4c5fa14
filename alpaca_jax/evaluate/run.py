"""Evaluates: scores a model and its baseline, asks people, or draws a frontier."""

from collections.abc import Callable
from typing import Any

from alpaca_jax.evaluate import frontier, score
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.vote import run as vote

ACTIONS: dict[str, Callable[[Config], dict[str, Any]]] = {"score": score.run, "vote": vote.run, "frontier": frontier.run}


def run(config: Config) -> dict[str, Any]:
    """Returns what was written: by `score` dir/evaluate/scores.json, by `vote` its part of that, by `frontier` dir/frontier.json."""
    return ACTIONS[config.action](config)
