"""Runs the stages one after another, each in its own process, resumable, with one report at the end."""
