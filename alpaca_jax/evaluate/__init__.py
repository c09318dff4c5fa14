"""Scores a model and, next to it, a baseline."""
