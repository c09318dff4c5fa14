"""Prompt sets: what models are asked, read from the files in which the field's evaluation sets come."""

from alpaca_jax.scores.prompts.prompt import Prompt, PromptSet, folded
from alpaca_jax.scores.prompts.reading import items, listed, read

__all__ = ["Prompt", "PromptSet", "folded", "items", "listed", "read"]
