"""The own suite, offline: a few hundred small questions, in six kinds and three levels, whose answers can be checked.

Every item is asked in two ways: the greedy answer is judged by a strict and by a lenient rule, and four given answers are compared by
their log-likelihood, which moves smoothly even where a model is too small to answer anything. `score.score` asks a model.
"""
