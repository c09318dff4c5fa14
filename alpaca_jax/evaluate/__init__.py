"""Scores a model, and a baseline beside it."""
