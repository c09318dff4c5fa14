"""Distillation: a student learns the next-token distributions of its teachers, in the step or from a cache."""
