"""Prefill, decode and sampling: many prompts answered at once on one model."""
