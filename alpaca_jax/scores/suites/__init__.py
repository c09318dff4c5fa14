"""Suites of questions whose answers can be checked."""
