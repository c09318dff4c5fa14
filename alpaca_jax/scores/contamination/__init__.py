"""Contamination: how much of the prompts of an evaluation the training records hold already."""

from alpaca_jax.scores.contamination.config import ContaminationConfig
from alpaca_jax.scores.contamination.overlap import Item, Touch, find
from alpaca_jax.scores.contamination.rules import RULES, Split, split, touched

__all__ = ["RULES", "ContaminationConfig", "Item", "Split", "Touch", "find", "split", "touched"]
