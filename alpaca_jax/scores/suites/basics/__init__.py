"""The own suite, offline: a few hundred small questions, in six kinds and three levels, whose answers can be checked.

Every item is asked in two ways: the greedy answer is judged by a strict and by a lenient rule, and four given answers are compared by
their log-likelihood, which moves smoothly even where a model is too small to answer anything.
"""

from alpaca_jax.scores.suites.basics.config import BasicsConfig
from alpaca_jax.scores.suites.basics.items import VERSION
from alpaca_jax.scores.suites.basics.score import rows, score

__all__ = ["VERSION", "BasicsConfig", "rows", "score"]
