"""Answers to a prompt set: read from a file, asked of an endpoint, or given by a model in this process."""

from alpaca_jax.scores.answers.answer import Answer, AnswerSet
from alpaca_jax.scores.answers.config import AnswersConfig

__all__ = ["Answer", "AnswerSet", "AnswersConfig"]
